"""Errors a person can act on: printed as one line by `python -m training`, without a traceback."""


class TrainingError(Exception):
    """Input, settings or files that training can't work with; the text names them and the remedy."""
