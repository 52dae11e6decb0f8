"""HTML: one file is one document, its source text; the cleaning step `html` finds the main text in it."""

import codecs
import re
from collections.abc import Iterator

from data_pipeline.read.document import Broken, Document, Place
from data_pipeline.read.input import Damaged, Input
from data_pipeline.read.lines import whole
from data_pipeline.read.txt import decode

SUFFIXES = (".html", ".htm", ".xhtml")

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DECLARED = re.compile(rb"""<(?:meta|\?xml)[^>]{0,300}?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_HEAD = 4096
_FEW = 100
"""One wrong byte in so many characters does not make what a page says of its encoding wrong."""


def read(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the file's one document, decoded by the setting `encoding`, or else by what the page says and is."""
    if start.position > 0:
        return
    try:
        data = whole(file)
        text = decode(data, file.encoding) if file.encoding else decode_page(data)
        yield file.document({file.text_field: text}, 0, is_html=True)
    except (Damaged, ValueError) as error:
        yield file.broken(0, 0, str(error))


def decode_page(data: bytes, declared: str | None = None) -> str:
    """Decode a web page: by its byte order mark; as UTF-8 when it is valid UTF-8 beyond ASCII; by the charset that the
    server `declared`; by that of its head; by the frequency of its bytes. What fits nothing gets U+FFFD here and there.
    """
    from resiliparse.parse.encoding import detect_encoding

    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if not data.isascii() and (text := _strictly(data, "utf-8")) is not None:
        return text
    said = [name for name in (_known(declared), _known(_in_head(data))) if name]
    for name in said:
        if (text := _strictly(data, name)) is not None:
            return text
    text = data.decode(said[0] if said else "utf-8", "replace")
    if said and text.count("\ufffd") * _FEW <= len(text):
        return text
    guess = _strictly(data, detect_encoding(data) or "utf-8")
    return text if guess is None else guess


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):
        return None


def _in_head(data: bytes) -> str | None:
    """The charset that the page's head names. UTF-16 it cannot be, for then the name would not be found."""
    found = _DECLARED.search(data, 0, _HEAD)
    name = found[1].decode("ascii", "replace").lower() if found else None
    return None if name and name.startswith("utf-16") else name


def _known(name: str | None) -> str | None:
    """Python's name for an encoding that browsers know."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    return map_encoding_to_html5(name, fallback_utf8=False) if name else None
