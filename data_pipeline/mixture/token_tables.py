"""What a token id says about words and sentences, looked up once for a whole vocabulary.

A shard holds ids, not text; words and sentences are found by these tables alone, without decoding.
- Words, WordPiece: a token that begins with ## continues the word before it.
- Words, byte-level and sentencepiece vocabularies: a space, a punctuation mark or a letter of a script without spaces
  (see `units`) begins a word, and all of these but a space end one where they stand last in a token; other letters and
  digits, and bytes inside a character, continue one. So Chinese is taken character by character, as far as its tokens
  are single characters.
- Sentences: a token whose text ends in . ! ? or … ends a sentence when a space follows, one that ends in 。！？ or has
  a line break always does; closing quotes and brackets behind it belong to it. WordPiece keeps no spaces: with it both
  always do, and quotes that close as well as open begin what follows.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.units import HAN, MARK, category_of

_CLOSES = "”’»)]}）」』】〉》"
_MAY_CLOSE = "\"'" + _CLOSES
_ENDS = ".!?…"
_ALWAYS_ENDS = "。！？｡"
_HALF = "\ufffd"
"""What decoding leaves of some of a character's bytes."""


@dataclass(frozen=True)
class TokenTables:
    """Tables by id, bool [vocab_size], and the ids that BERT's sequences are built with."""

    begins_word: np.ndarray
    """The token is the first of a word, whatever stands before it."""
    closes_word: np.ndarray
    """The token is the last of a word, whatever stands behind it."""
    ends_sentence: np.ndarray
    """A sentence ends behind the token."""
    ends_before_space: np.ndarray
    """A sentence ends behind the token when the next one begins with a space."""
    begins_with_space: np.ndarray
    """The token's text begins with a space."""
    closes: np.ndarray
    """The token is only closing quotes and brackets."""
    may_close: np.ndarray
    """Or such as also open."""
    special: np.ndarray
    """The token stands for no text, like [SEP]; [UNK] stands for some."""
    cls: int
    """Begins a sequence."""
    sep: int
    """Ends a segment."""
    pad: int
    """Fills a sequence up."""
    mask: int
    """Hides a token."""

    @classmethod
    def of(cls, tokenizer_json: bytes) -> "TokenTables":
        """Read the vocabulary of a tokenizer.json. DataError when it lacks [CLS], [SEP], [PAD] or [MASK]."""
        settings = json.loads(tokenizer_json)
        texts, special = _texts(settings)
        word_piece = settings["model"]["type"] == "WordPiece"
        continues = settings["model"].get("continuing_subword_prefix") or "##"
        begins = [not text.startswith(continues.encode()) if word_piece else _begins(text) for text in texts]
        plain = [text.decode(errors="replace") for text in texts]
        lasts = [text.rstrip().rstrip(_MAY_CLOSE)[-1:] or "a" for text in plain]
        ends = np.array([last in _ENDS for last in lasts])
        always = np.array([last in _ALWAYS_ENDS or "\n" in text for last, text in zip(lasts, plain, strict=True)])
        return cls(
            begins_word=np.array(begins),
            closes_word=np.array([not word_piece and _closes_word(text) for text in plain]),
            ends_sentence=always | ends if word_piece else always,
            ends_before_space=ends,
            begins_with_space=np.array([text[:1].isspace() for text in plain]),
            closes=np.array([bool(text) and not text.strip(_CLOSES) for text in plain]),
            may_close=np.array([bool(text) and not text.strip(_MAY_CLOSE) for text in plain]),
            special=special,
            **{name: _special_id(settings, f"[{name.upper()}]") for name in ("cls", "sep", "pad", "mask")},
        )

    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        """Say which of ids [..., n] are the first tokens of words, bool [..., n]; the first one always is."""
        starts = self.begins_word[ids] | self.special[ids]
        starts[..., :1] = True
        starts[..., 1:] |= (self.closes_word | self.special)[ids[..., :-1]]
        return starts

    def sentence_ends(self, ids: np.ndarray) -> np.ndarray:
        """Return the places behind the last token of each sentence in ids [n], ascending, without n itself."""
        after = ids[1:]
        always = _carried(self.ends_sentence[ids], self.closes[ids])[:-1] & ~self.closes[after]
        spaced = _carried(self.ends_before_space[ids], self.may_close[ids])[:-1] & self.begins_with_space[after]
        return np.flatnonzero(always | spaced) + 1


def _carried(ends: np.ndarray, closing: np.ndarray) -> np.ndarray:
    """Whether the last token that is not `closing`, up to each one, is an end."""
    places = np.where(closing, 0, np.arange(len(ends)))
    return ends[np.maximum.accumulate(places)]


def _texts(settings: dict[str, Any]) -> tuple[list[bytes], np.ndarray]:
    """The bytes that each id stands for, and which ids are special, bool; WordPiece keeps its ##."""
    vocabulary = settings["model"]["vocab"]
    if isinstance(vocabulary, list):
        vocabulary = {piece: index for index, (piece, *_) in enumerate(vocabulary)}
    added = {token["id"]: token for token in settings["added_tokens"]}
    size = 1 + max([*vocabulary.values(), *added])
    byte_level = '"ByteLevel"' in json.dumps([settings.get("decoder"), settings.get("pre_tokenizer")])
    texts = [b""] * size
    for piece, index in vocabulary.items():
        texts[index] = _bytes(piece, byte_level)
    unknown = settings["model"].get("unk_token")
    special = np.zeros(size, bool)
    for index, token in added.items():
        special[index] = token["special"] and token["content"] != unknown
        texts[index] = b"" if token["special"] else token["content"].encode()
    return texts, special


def _bytes(piece: str, byte_level: bool) -> bytes:
    """What a piece of a vocabulary stands for."""
    if byte_level:
        return bytes(_BYTE_OF_LETTER[letter] for letter in piece if letter in _BYTE_OF_LETTER)
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()


def _byte_letters() -> dict[str, int]:
    """Byte-level vocabularies write printable bytes as themselves and the others as the letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()


def _begins(text: bytes) -> bool:
    """Whether a token with these bytes begins a word: those inside a character do not."""
    if not text or 0x80 <= text[0] < 0xC0:
        return False
    first = text.decode(errors="replace")[0]
    # A character whose bytes are in several tokens is known by its first: from E3 on they are East Asian, or symbols.
    return text[0] >= 0xE3 if first == _HALF else not _in_word(first)


def _closes_word(text: str) -> bool:
    """Whether a token with this text ends a word, whatever follows."""
    return bool(text) and text[-1] != " " and not _in_word(text[-1])


def _in_word(letter: str) -> bool:
    """Whether words go on through it: letters, digits and marks of scripts with spaces, and halves of characters."""
    return letter == _HALF or MARK <= category_of(letter) < HAN


def _special_id(settings: dict[str, Any], token: str) -> int:
    for added in settings["added_tokens"]:
        if added["content"] == token:
            return int(added["id"])
    raise DataError(f"the tokenizer has no {token}, which BERT's sequences need: train one with it as a special token.")
