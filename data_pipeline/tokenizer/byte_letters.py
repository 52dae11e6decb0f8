"""How byte-level vocabularies write bytes."""


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it prints in Latin-1, else one from U+0100 on."""
    printing = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printing else chr(next(others)) for byte in range(256)]
