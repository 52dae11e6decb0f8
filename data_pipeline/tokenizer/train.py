"""Train a tokenizer: the same texts in the same order give the same bytes, in any process, on any number of cores."""

from collections.abc import Callable, Iterable, Sequence

from data_pipeline.errors import DataError
from data_pipeline.tokenizer.settings import ModelKind, smallest_vocab_size
from data_pipeline.tokenizer.tokenizer import Tokenizer
from data_pipeline.tokenizer.train_bpe import train_byte_bpe
from data_pipeline.tokenizer.train_sentencepiece import train_sentencepiece
from data_pipeline.tokenizer.train_wordpiece import train_wordpiece
from data_pipeline.tokenizer.training_text import training_pieces


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    model_max_length: int = 2048,
    model: ModelKind = "byte_bpe",
    lowercase: bool = False,
    special_tokens: Sequence[str] = (),
) -> Tokenizer:
    """Learn a vocabulary of at most `vocab_size` from the texts. DataError when that is too small or there is no text.

    A small corpus may give fewer. `lowercase` is for wordpiece, `special_tokens` for the others.
    """
    smallest = smallest_vocab_size(model, len(special_tokens))
    if vocab_size < smallest:
        raise DataError(f"vocab_size={vocab_size} is too small: {model} begins with {smallest} tokens.")
    if lowercase and model != "wordpiece":
        raise DataError(f"lowercase is for model: wordpiece; {model} keeps every byte of the text.")
    texts = training_pieces(texts)
    learn: dict[str, Callable[[], Tokenizer]] = {
        "byte_bpe": lambda: train_byte_bpe(texts, vocab_size, model_max_length, special_tokens),
        "sentencepiece_unigram": lambda: train_sentencepiece(
            texts, vocab_size, model_max_length, "unigram", special_tokens
        ),
        "sentencepiece_bpe": lambda: train_sentencepiece(texts, vocab_size, model_max_length, "bpe", special_tokens),
        "wordpiece": lambda: train_wordpiece(texts, vocab_size, model_max_length, lowercase),
    }
    return learn[model]()
