"""What counts as the same text."""

import unicodedata


def normalised(text: str) -> str:
    """Compose characters (NFC) and fold case, so that `Café` written in four ways is one text."""
    return unicodedata.normalize("NFC", text).casefold()
