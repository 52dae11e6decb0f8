"""Train a tokenizer, load a tokenizer."""

from data_pipeline.tokenizer.tokenizer import Tokenizer
from data_pipeline.tokenizer.train import train_tokenizer

__all__ = ["Tokenizer", "train_tokenizer"]
