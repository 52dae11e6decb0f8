"""Just enough of protobuf's wire format to read a sentencepiece model: no package, no generated code."""

import struct
from collections.abc import Iterator

Value = int | bytes
"""Varints as they are, fixed-width values and everything with a length as bytes."""


def fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of each field, in the order of the file. ValueError when the message is damaged."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if length > len(message) - at:
            raise ValueError(f"a field at byte {at} is longer than the file")
        yield number, message[at : at + length]
        at += length


def last_values(message: bytes) -> dict[int, Value]:
    """The fields of a message in which none repeats."""
    return dict(fields(message))


def float_of(value: Value) -> float:
    """A fixed 32-bit value as the number it stands for. ValueError when it is none."""
    if not isinstance(value, bytes) or len(value) != 4:
        raise ValueError("a number of four bytes was expected")
    return struct.unpack("<f", value)[0]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends inside a number")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(f"a number at byte {at} has no end")
