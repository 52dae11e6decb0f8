"""Where a file lies: on this machine, or wherever fsspec reaches."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from data_pipeline.errors import DataError

_URL = re.compile(r"[a-z][a-z0-9+.-]*(://|::)", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/@\s]*@")
_SECRET = re.compile(
    r"(?<=[?&])([^=&#]*(?:key|token|secret|sig|signature|password|credential|auth)[^=&#]*)=[^&#]*", re.IGNORECASE
)


def is_url(path: str) -> bool:
    """True for what only fsspec can open."""
    return _URL.match(path) is not None


def is_local(path: str) -> bool:
    """True for a file of this machine."""
    return not is_url(path)


def shown(path: str) -> str:
    """A path or URL as it may be printed and stored: without user, password, token or signature."""
    return _hidden(path) if is_url(path) else path


def _hidden(text: str) -> str:
    return _SECRET.sub(r"\1=***", _USER.sub("***@", text))


def file_name(path: str) -> str:
    """The last part of a path or URL, without what a web address may have after it."""
    if not is_url(path):
        return os.path.basename(path)  # noqa: PTH119 - a Path for each of a million files is slow
    first = next(part for part in path.split("::") if "://" in part or "::" not in path)
    return unquote(urlsplit(first).path if first.lower().startswith("http") else first).rpartition("/")[2]


def as_local(path: str) -> str:
    """A file:// URL as the path that it means; anything else as it is."""
    return unquote(urlsplit(path).path) if path.lower().startswith(("file:///", "local:///")) else path


def open_file(path: str) -> BinaryIO:
    """Open a file of this machine or of a URL for reading. OSError (local) or DataError (remote) when that fails."""
    return cast(BinaryIO, _Remote(path) if is_url(path) else Path(path).open("rb", buffering=0))


def filesystem_of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it. DataError names the package that is missing for it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DataError(f"{shown(url)} needs a package that is not installed ({error}); install it.") from error
    except ValueError as error:
        problem = _hidden(str(error))
        raise DataError(
            f"{shown(url)}: {problem}; known are s3://, gs://, https:// and what else fsspec has."
        ) from error
    except Exception as error:
        raise _cannot_read(url, error) from error


def asking(url: str, question: Callable[..., Any], *arguments: Any) -> Any:
    """Ask a remote file system something; whatever goes wrong there becomes a sentence."""
    try:
        return question(*arguments)
    except Exception as error:  # each file system has its own
        raise _cannot_read(url, error) from error


def _cannot_read(url: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"cannot read {shown(url)}: no such file.")
    first_line = (str(error).strip().splitlines() or [""])[0]
    said = error.strerror if isinstance(error, OSError) and error.strerror else _hidden(first_line)[:200]
    return DataError(f"cannot read {shown(url)}: {said or type(error).__name__}.")


class _Remote(io.RawIOBase):
    """A remote file; an error in the middle of it is a DataError, never mistaken for the end or for damage."""

    def __init__(self, url: str) -> None:
        filesystem, path = filesystem_of(url)
        self._url = url
        self._file = asking(url, filesystem.open, path, "rb")
        self._seekable = bool(self._file.seekable())
        if url.lower().startswith("http") and not _comes_in_parts(self._file):
            self._file = asking(url, filesystem.open, path, "rb", 0)
            self._seekable = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._seekable

    def readinto(self, buffer: Any) -> int:
        data = asking(self._url, self._file.read, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(asking(self._url, self._file.seek, offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _comes_in_parts(file: Any) -> bool:
    """False for a web server that sends files whole only. fsspec would notice that in the middle."""
    try:
        file.seek(max(1, file.size - 1))
        file.read(1)
        file.seek(0)
    except Exception:
        return False
    return True
