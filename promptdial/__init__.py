"""Promptdial: short text in, a detailed generator prompt out, at the relevance and length asked for.

The library half of the service: commands, tokenizer, bundle, relevance scorer and decoding engine. It needs
onnxruntime, tokenizers and numpy, and neither torch nor a web framework.
"""

__version__ = "0.1.0"
