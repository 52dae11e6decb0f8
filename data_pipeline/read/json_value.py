"""JSON text to values, within bounds of memory."""

from typing import Any

import orjson

_LONG = 1 << 24
_MOST_VALUES = 1 << 23
"""A list of tiny values takes some 30 times its text in memory: 8 Mi of them some 500 MiB."""


def parse(text: bytes) -> Any:
    """Parse one JSON value. ValueError when it is none, or has too many parts to hold in memory."""
    if len(text) > _LONG:  # else it is not worth a call
        check_values(text)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error})") from error


def check_values(text: bytes) -> None:
    """Raise ValueError when there are too many values in some JSON text to hold in memory."""
    if len(text) > _LONG and sum(map(text.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise ValueError(f"the record has more than {_MOST_VALUES >> 20} Mi values")
