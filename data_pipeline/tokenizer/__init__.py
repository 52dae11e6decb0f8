"""Train a tokenizer, load a tokenizer."""

from data_pipeline.tokenizer.encoders import Flat
from data_pipeline.tokenizer.fast import FastEncoderDiffers, with_fallback
from data_pipeline.tokenizer.tokenizer import Tokenizer
from data_pipeline.tokenizer.train import train_tokenizer

__all__ = ["FastEncoderDiffers", "Flat", "Tokenizer", "train_tokenizer", "with_fallback"]
