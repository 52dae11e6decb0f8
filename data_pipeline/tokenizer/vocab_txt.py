"""BERT's vocab.txt (Devlin et al. 2018, arXiv:1810.04805) as a tokenizer.json."""

import json
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.tokenizer.tiktoken_ranks import added_token

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""[PAD] fills, [UNK] stands for what the vocabulary cannot spell, [CLS] and [SEP] frame, [MASK] hides."""
LONGEST_WORD = 100
"""Characters of a word beyond which it becomes [UNK]."""


def is_vocab(data: bytes) -> bool:
    """True for a text file with one of its lines [UNK]."""
    return b"\n[UNK]\n" in data.replace(b"\r", b"")[: 1 << 20]


def vocab_to_json(data: bytes) -> bytes:
    """tokenizer.json for a vocab.txt; lower case when no entry has capitals. DataError when something is missing."""
    entries = data.decode().replace("\r\n", "\n").split("\n")
    entries = entries[:-1] if entries[-1] == "" else entries
    vocab = {entry: index for index, entry in enumerate(entries)}
    missing = [token for token in SPECIAL if token not in vocab]
    if missing or len(vocab) != len(entries):
        raise DataError(f"the vocabulary is damaged: {'no ' + missing[0] if missing else 'an entry stands twice'}.")
    lowercase = all(entry == entry.lower() for entry in entries if not entry.startswith("["))
    return json.dumps(wordpiece_json(vocab, lowercase), ensure_ascii=False).encode()


def wordpiece_json(vocab: dict[str, int], lowercase: bool) -> dict[str, Any]:
    """The content of a tokenizer.json; `lowercase` also takes accents away, as BERT's uncased models do."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(vocab[token], token) for token in sorted(SPECIAL, key=vocab.__getitem__)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": LONGEST_WORD,
            "vocab": vocab,
        },
    }
