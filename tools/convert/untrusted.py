"""Read torch's files without trusting them.

Pickles can run any code. Here only tensors, numbers, text and containers come to life; a few harmless classes that such
files hold beside them become inert `Record`s, and every other class is refused by name. The checksums that torch.save
keeps for each tensor, and that no loader looks at, are compared.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from megamodel.errors import CheckpointError, CheckpointUnreadable

Advance = Callable[[int], None]
"""Told of bytes that have been read, for a progress bar."""


class Record:
    """What stands for an object of a foreign class: the arguments that it would be made with and its state, unused."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "Record":
        """Keep the arguments."""
        record = object.__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state

    def __getitem__(self, field: str) -> Any:
        """A field of the state; CheckpointError when the object has none of that name."""
        if not isinstance(self.state, dict) or field not in self.state:
            raise CheckpointError(f"{type(self).__name__} without {field}")
        return self.state[field]


_NUMPY = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
_HARMLESS = (
    "argparse.Namespace",
    "deepspeed.checkpoint.universal_checkpoint.SubparamShape",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.PosixPath",
    *_NUMPY,
)
"""Classes that DeepSpeed and its users put beside the tensors; each becomes a Record."""


def load_torch_file(path: Path, advance: Advance = lambda done: None) -> Any:
    """The content of a file of torch.save, its tensors mapped from the disk; CheckpointError says what is wrong."""
    try:
        with path.open("rb") as file:
            _compare_checksums(file, path, advance)
        return _load(path, path, mmap=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; copy the whole folder") from None
    except OSError as error:
        raise CheckpointUnreadable(f"{path}: {error.strerror or error}") from None


def load_torch_slice(path: Path, offset: int, length: int) -> Any:
    """The content of one torch.save among others in a file."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(length)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; copy the whole folder") from None
    except (OSError, ValueError, OverflowError) as error:
        raise CheckpointUnreadable(f"{path}: {error}") from None
    if len(content) < length:
        raise CheckpointError(f"{path} is cut off: it ends before byte {offset + length}; copy it again")
    stream = io.BytesIO(content)
    _compare_checksums(stream, path, lambda done: None)
    stream.seek(0)
    return _load(stream, path, mmap=False)


def _load(file: Any, path: Path, mmap: bool) -> Any:
    try:
        with safe_globals([(Record, name) for name in _HARMLESS]):
            unknown = sorted(get_unsafe_globals_in_checkpoint(file))
            if unknown:
                raise CheckpointError(_refusal(path, unknown[0]))
            if not isinstance(file, Path):
                file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # whatever damaged bytes lead to, they are damaged
        raise CheckpointError(f"{path}: damaged, or no file of torch.save ({_short(error)})") from None


def _compare_checksums(file: IO[bytes], path: Path, advance: Advance) -> None:
    """torch.save writes a zip archive, stored, with the CRC-32 of each part."""
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as part:
                    while block := part.read(2**20):
                        advance(len(block))
    except OSError:
        raise
    except Exception as error:  # damaged headers lead to all kinds of errors
        raise CheckpointError(f"{path}: damaged or cut off ({_short(error)}); copy it again") from None


def load_records(path: Path, classes: frozenset[str]) -> Any:
    """A plain pickle in which the named classes become Records, each of a class of its own name."""
    try:
        return _Records(io.BytesIO(path.read_bytes()), path, classes).load()
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: its save was not completed, or the copy is not whole") from None
    except OSError as error:
        raise CheckpointUnreadable(f"{path}: {error.strerror or error}") from None
    except Exception as error:
        raise CheckpointError(f"{path}: damaged, it cannot be read ({_short(error)}); copy it again") from None


class _Records(pickle._Unpickler):  # the one in Python: damaged bytes cannot make it take memory without end
    """Makes no object of any class but Record."""

    def __init__(self, file: IO[bytes], path: Path, classes: frozenset[str]) -> None:
        super().__init__(file)
        self.path, self.classes = path, classes
        self.made: dict[str, type[Record]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class."""
        full = f"{module}.{name}"
        if full in _CONTAINERS:
            return _CONTAINERS[full]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if full not in self.classes:
            raise CheckpointError(_refusal(self.path, full))
        return self.made.setdefault(full, type(name, (Record,), {}))


_CONTAINERS: dict[str, Any] = {"collections.OrderedDict": OrderedDict, "torch.Size": tuple}


def _refusal(path: Path, name: str) -> str:
    return (
        f"{path} holds an object of the class {name}, which could run code when it is loaded, so it was not. "
        "Save the checkpoint without it (DeepSpeed: without client_state)"
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0].strip(": ")[:160]
