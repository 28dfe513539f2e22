"""From text pairs to a checkpoint: episodes, rewards, upside-down reinforcement learning, evaluation.

Runs from the checkout: `python -m training prepare | tokenizer | train | evaluate`.
"""
