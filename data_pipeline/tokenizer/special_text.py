"""What spells a special token in a text must stay text.

Libraries split a text at special tokens only when told to, but some models reach them all the same: a Unigram
tokenizer.json has `</s>` among its pieces, and takes it wherever a text spells it. For those, text goes through a
copy of the tokenizer in which these entries have names that no text spells; the ids of all other texts are the same.
"""

import json
from collections.abc import Collection
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.tokenizer.encoders import Encoder, HuggingFaceEncoder


def guarded(encoder: HuggingFaceEncoder, tokenizer_json: bytes) -> tuple[HuggingFaceEncoder, bytes]:
    """An encoder that no text can make give a special token, and its tokenizer.json: the ones given, if they do so."""
    added = encoder.tokenizer.get_added_tokens_decoder()
    special = {token.content: index for index, token in added.items() if token.special}
    if not _reached(encoder, special):
        return encoder, tokenizer_json
    unknown = unknown_of(json.loads(tokenizer_json)["model"])
    tokenizer_json = _without_names(tokenizer_json, special)
    encoder = HuggingFaceEncoder(tokenizer_json)
    left = {*_reached(encoder, special)} - {unknown}
    if left:
        raise DataError(f"a text that spells {min(left)} is encoded as that special token, and this cannot be helped.")
    return encoder, tokenizer_json


def _without_names(tokenizer_json: bytes, tokens: Collection[str]) -> bytes:
    """Give tokens names of noncharacters in the model, and take them from the added tokens."""
    content = json.loads(tokenizer_json)
    model = content["model"]
    names = {token: f"\ufdd0{number}\uffff" for number, token in enumerate(tokens)}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): index for token, index in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    pairs = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model.get("merges", [])]
    if pairs:
        model["merges"] = [pair for pair in pairs if not names.keys() & {*pair, "".join(pair)}]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    content["added_tokens"] = [added for added in content["added_tokens"] if added["content"] not in names]
    return json.dumps(content, ensure_ascii=False).encode()


def _reached(encoder: Encoder, special: dict[str, int]) -> list[str]:
    texts = [token for token in special if token]
    found = encoder.encode([f"{before}{token}" for token in texts for before in ("", " ", "a")]).split()
    return [
        token for number, token in enumerate(texts) if any(special[token] in ids for ids in found[3 * number :][:3])
    ]


def unknown_of(model: dict[str, Any]) -> str | None:
    """The entry for what cannot be spelt; texts may well be encoded as that."""
    if model.get("unk_id") is not None:
        return model["vocab"][model["unk_id"]][0]
    return model.get("unk_token")
