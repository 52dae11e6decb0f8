"""Whether transformers can give a tokenizer's ids: tokenizer.json says less than some sentencepiece models."""

import numpy as np

from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer.encoders import HuggingFaceEncoder
from data_pipeline.tokenizer.probe import probe_texts
from launcher.errors import UserError
from tools.convert.reference import TEXTS


def check_tokenizer(tokenizer: Tokenizer) -> list[str]:
    """Notes for whoever exports. UserError when the ids of an export would be wrong for ordinary texts."""
    content = tokenizer.to_json()
    if content is None:
        raise UserError(
            "the tokenizer is a sentencepiece model of words or characters, which transformers cannot read."
        )
    if tokenizer.encoder != "sentencepiece":
        return []
    theirs = HuggingFaceEncoder(content)
    if wrong := _differing(tokenizer, theirs, list(TEXTS)):
        raise UserError(
            f"transformers would give other ids than this sentencepiece model, for {wrong[0]!r}: its normalisation "
            "cannot be told to it; train with a tokenizer that has none, or serve the model with sentencepiece."
        )
    texts = probe_texts()
    wrong = _differing(tokenizer, theirs, texts)
    if not wrong:
        return []
    return [
        f"transformers gives other ids than sentencepiece for {len(wrong)} of {len(texts)} hostile texts: it rounds "
        "scores of unigram pieces otherwise; tokenizer.model, which is exact, lies beside tokenizer.json"
    ]


def _differing(tokenizer: Tokenizer, theirs: HuggingFaceEncoder, texts: list[str]) -> list[str]:
    ours = tokenizer.encode_batch(texts)
    return [
        text
        for text, one, other in zip(texts, ours, theirs.encode(texts).split(), strict=True)
        if not np.array_equal(one, other)
    ]
