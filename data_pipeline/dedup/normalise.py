"""What counts as the same text."""

from data_pipeline.normal_form import normal_form


def normalised(text: str) -> str:
    """Compose characters (NFC) and fold case, so that `Café` written in four ways is one text."""
    return normal_form("NFC", text).casefold()
