"""Where the work runs: this machine's cores."""

from data_pipeline.execute.prepare import Prepared, prepare
from data_pipeline.execute.tokenize import tokenize, train_tokenizer_into, train_tokenizer_on

__all__ = ["Prepared", "prepare", "tokenize", "train_tokenizer_into", "train_tokenizer_on"]
