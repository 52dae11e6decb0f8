"""tiktoken's ranks files and Mistral's tekken.json, as a tokenizer.json with the same ids.

A ranks file lists byte strings by the order in which they were learnt; two neighbours merge when their join is in
the list, lowest rank first. A tokenizer.json lists pairs instead. All the pairs that join to an entry, in the order
of the ranks, give the same merges: inside the bytes of an entry only merges of lower rank have happened, in the same
order whatever stands around it, so just one of its pairs ever meets, at the same moment. `ignore_merges` is
tiktoken's look-up of whole words.
"""

import base64
import binascii
import json
import re
from typing import Any, NamedTuple

from data_pipeline.errors import DataError
from data_pipeline.tokenizer.byte_letters import byte_letters

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_LOWER}{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _END
)
_END_OF_TEXT = "<|endoftext|>"


class Encoding(NamedTuple):
    """What a ranks file does not say."""

    pattern: str
    """The regular expression that finds the words of a text."""
    special: dict[str, int]
    """Ids of the special tokens."""
    size: int
    """Ids in all; those without a token are reserved."""
    ranks: int
    """Entries of its file."""


_FIM = {"<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260}
_LLAMA3 = {
    "<|begin_of_text|>": 128000,
    "<|end_of_text|>": 128001,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eot_id|>": 128009,
}
ENCODINGS = {
    "gpt2": Encoding(GPT2, {_END_OF_TEXT: 50256}, 50257, 50256),
    "r50k": Encoding(GPT2, {_END_OF_TEXT: 50256}, 50257, 50256),
    "p50k": Encoding(GPT2, {_END_OF_TEXT: 50256}, 50281, 50280),
    "cl100k": Encoding(CL100K, {_END_OF_TEXT: 100257, **_FIM, "<|endofprompt|>": 100276}, 100277, 100256),
    "o200k": Encoding(O200K, {_END_OF_TEXT: 199999, "<|endofprompt|>": 200018}, 200019, 199998),
    "llama3": Encoding(CL100K, _LLAMA3, 128256, 128000),
}
"""By name."""
_TEKKEN = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"]
_TEKKEN += ["[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"]
_TEKKEN += ["[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
"""The first special tokens of files that do not list them."""
_MOST_SPECIAL = 1 << 16
_POSSESSIVE = re.compile(r"(\\[pP]\{\^?\w+\}|\\.|\[[^][]+\]|[^\\()\[\]{}])(\{\d*,?\d*\})\+")
"""A character or a class of them, repeated so and so often, with a plus behind."""


def is_ranks(data: bytes) -> bool:
    """True when the first line is a byte string in base64 and a number."""
    first = data[:4096].split(b"\n", 1)[0].split()
    if len(first) != 2 or not first[1].isdigit():
        return False
    try:
        base64.b64decode(first[0], validate=True)
    except binascii.Error:
        return False
    return True


def tiktoken_to_json(data: bytes, stem: str, pattern: str | None, eos_token: str | None) -> tuple[bytes, str]:
    """tokenizer.json for a ranks file, and its end-of-document token.

    `pattern` is a name of `ENCODINGS` or a regular expression; without it the file's name must begin with such a name.
    With a regular expression `eos_token` gets the id after the last rank. DataError says what is missing.
    """
    name = pattern or next((name for name in ENCODINGS if stem.startswith(name)), None)
    if name is None:
        raise DataError(
            "a tiktoken ranks file does not say how text is split into words: set `pattern` to one of "
            f"{', '.join(ENCODINGS)}, or to the regular expression."
        )
    ranks = _ranks(data)
    known = ENCODINGS.get(name, Encoding(name, {}, 0, len(ranks)))
    taken = set(ranks.values())
    if len(ranks) != known.ranks:
        raise DataError(f"{name} has {known.ranks:,} ranks, this file {len(ranks):,}: set `pattern` to the right name.")
    eos = eos_token or next((token for token in ("<|end_of_text|>", _END_OF_TEXT) if token in known.special), None)
    if eos is None:
        raise DataError("a ranks file names no special token: set `eos_token`, such as <|endoftext|>.")
    special = known.special or {eos: 1 + max(taken)}
    return bpe_json(ranks, known.pattern, _without_gaps(special, taken, known.size)), eos


def _without_gaps(special: dict[str, int], taken: set[int], size: int) -> dict[str, int]:
    """With names for ids that have no token: `tokenizers` would number the tokens after a gap anew."""
    free = set(range(size)) - taken - {*special.values()}
    return special | {f"<|reserved_special_token_{number}|>": index for number, index in enumerate(sorted(free))}


def tekken_to_json(content: dict[str, Any]) -> bytes:
    """tokenizer.json for a parsed tekken.json: special tokens, then the ranks. KeyError or ValueError if damaged."""
    settings = content["config"]
    count, size = int(settings["default_num_special_tokens"]), int(settings["default_vocab_size"])
    if not 0 <= count <= min(size, _MOST_SPECIAL) or size > len(content["vocab"]) + count:
        raise DataError(
            f"{size} tokens, of which {count} special, are not in its vocabulary of {len(content['vocab'])}."
        )
    given = content.get("special_tokens") or [{"token_str": t, "rank": index} for index, t in enumerate(_TEKKEN)]
    special = {entry["token_str"]: int(entry["rank"]) for entry in given}
    free = sorted(set(range(count)) - {*special.values()})
    special |= {f"<SPECIAL_{index}>": index for index in free}
    vocab = {base64.b64decode(entry["token_bytes"]): int(entry["rank"]) for entry in content["vocab"]}
    ranks = {token: rank + count for token, rank in vocab.items() if rank < size - count}
    return bpe_json(ranks, settings["pattern"], special)


def _ranks(data: bytes) -> dict[bytes, int]:
    """Parse a ranks file. DataError with the line that is damaged."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:  # binascii.Error is one
            raise DataError(f"line {number} is not a byte string in base64 and a rank; copy the file again.") from error
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing or len(set(ranks.values())) != len(ranks):
        what = f"byte {missing[0]:#04x} is missing" if missing else "two entries have one rank"
        raise DataError(f"the ranks are damaged: {what}; copy the file again.")
    return ranks


def bpe_json(ranks: dict[bytes, int], pattern: str, special: dict[str, int]) -> bytes:
    """A byte-level tokenizer.json; `ranks` maps byte strings to ids in the order of their merges."""
    ids = {*ranks.values(), *special.values()}
    if len(ids) < len(ranks) + len(special) or max(ids) >= len(ids):
        raise DataError("its ranks and special tokens are not numbered from 0 on without gaps; copy the file again.")
    letters = byte_letters()
    vocab = {"".join(letters[byte] for byte in token): index for token, index in ranks.items()}
    merges = [
        [token[:cut], token[cut:]]
        for token in sorted(vocab, key=vocab.__getitem__)
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    vocab |= {token: index for token, index in special.items() if index < max(ranks.values())}  # no gaps
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(index, token) for token, index in sorted(special.items(), key=lambda kv: kv[1])],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(pattern),
        "post_processor": None,
        "decoder": _byte_level(use_regex=False),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return json.dumps(content, ensure_ascii=False).encode()


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """Words by the pattern, bytes as letters. GPT-2's pattern is built in, and faster when named so.

    tiktoken never gives back what `{1,3}+` took; Oniguruma, behind `tokenizers`, takes that for any number of `{1,3}`.
    """
    if pattern == GPT2:
        return _byte_level(use_regex=True)
    regex = _POSSESSIVE.sub(r"(?>\1\2)", pattern)
    if re.search(r"[^\\]\{\d*,?\d*\}\+", regex):
        raise DataError(
            f"the pattern repeats a group possessively, which `tokenizers` cannot: write (?>...) in {pattern}"
        )
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def added_token(index: int, content: str, special: bool = True) -> dict[str, Any]:
    """An entry of `added_tokens` in tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": index, "content": content, **flags}
