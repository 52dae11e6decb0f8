"""Hugging Face datasets. The `datasets` library finds their files; those that our readers take are read by them, since
they pass over a broken record where the library gives up. Other datasets it streams, shard by shard.

No code that comes with a dataset is run: the library (from 4.0 on) has no such thing any more.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from data_pipeline.errors import DataError
from data_pipeline.read.document import Broken, Document, Place
from data_pipeline.read.input import Input
from data_pipeline.read.rows import UNREADABLE
from data_pipeline.read.settings import DatasetSource

SCHEME = "dataset://"

_TABLES = ("json", "csv", "parquet", "arrow")
"""The library's names of formats that mean to it what they mean here."""
_NO_OPTIONS = ("name", "version", "data_dir", "data_files", "description")


class _Split(NamedTuple):
    """A split of a dataset, as its shards' names tell it."""

    dataset: str
    split: str
    subset: str | None = None
    revision: str | None = None


def expand(source: DatasetSource, is_readable: Callable[[str], bool]) -> list[str]:
    """The files of a dataset, in its order; of one whose files are not all readable here a name for each of its shards,
    dataset://NAME?split=SPLIT&...&shard=NUMBER.

    DataError when there is no such dataset, or the Hub cannot be reached.
    """
    folder = Path(source.dataset)
    if folder.is_file():
        raise DataError(f"{folder} is a file; give it as a source with `kind: files`.")
    if folder.is_dir():
        saved = _saved(folder, source.split)
        return saved or _files_or_shards(_Split(str(folder), source.split, source.subset), is_readable)
    if source.dataset.startswith((".", "/")) or source.dataset.count("/") > 1:
        raise DataError(f"{folder}: no such folder (from {Path.cwd()}).")
    revision = source.revision or _newest(source.dataset)
    return _files_or_shards(_Split(source.dataset, source.split, source.subset, revision), is_readable)


def read(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the records of one shard from number `start.position` on."""
    split, shard = _parse(file.path)
    position = start.position
    try:
        stream = _stream(split)
        if stream.features:
            stream = stream.select_columns(
                [name for name in (file.text_field, file.id_field) if name in stream.features]
            )
        for record in stream.shard(stream.num_shards, shard).skip(position):
            yield file.document(record, position)
            position += 1
    except UNREADABLE as error:
        yield file.broken(position, 0, f"the dataset cannot be read any further ({_first_line(error)})")
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"cannot read the dataset {split.dataset}: {_first_line(error)}.") from error


def _saved(folder: Path, split: str) -> list[str]:
    """The files that `save_to_disk` wrote, in their order; none when it did not write this folder."""
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_bytes())["splits"]
            if split not in splits:
                raise DataError(f"{folder} has no split {split!r}; it has {', '.join(splits)}.")
            folder = folder / split
        if not (folder / "state.json").is_file():
            return []
        files = json.loads((folder / "state.json").read_bytes())["_data_files"]
        return [str(folder / file["filename"]) for file in files]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not readable as a saved dataset ({error!r}); save it again.") from error


def _files_or_shards(split: _Split, is_readable: Callable[[str], bool]) -> list[str]:
    files = _files(split)
    return files if files and all(map(is_readable, files)) else _shards(split)


def _files(split: _Split) -> list[str]:
    """The data files of a split; none when the dataset says anything about them that our readers would not know."""
    builder = _opened(split, "load_dataset_builder")
    config, default = builder.config, type(builder.config)()
    names = [field.name for field in dataclasses.fields(config) if field.name not in _NO_OPTIONS]
    if builder.info.builder_name not in _TABLES or any(getattr(config, n) != getattr(default, n) for n in names):
        return []
    folder = f"{Path(split.dataset).resolve()}/"
    files = map(str, (config.data_files or {}).get(split.split, ()))
    return [str(Path(split.dataset) / file.removeprefix(folder)) if file.startswith(folder) else file for file in files]


def _shards(split: _Split) -> list[str]:
    chosen = {name: value for name, value in split._asdict().items() if value is not None and name != "dataset"}
    name = f"{SCHEME}{quote(split.dataset)}?{urlencode(chosen)}"
    return [f"{name}&shard={number:05d}" for number in range(_stream(split).num_shards)]


def _parse(name: str) -> tuple[_Split, int]:
    dataset, _, rest = name.removeprefix(SCHEME).partition("?")
    chosen = dict(parse_qsl(rest))
    shard = int(chosen.pop("shard"))
    return _Split(unquote(dataset), **chosen), shard


def _newest(dataset: str) -> str | None:
    """The dataset's present revision, so that a run that goes on tomorrow reads the same; None in offline mode."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return HfApi().dataset_info(dataset, timeout=30).sha
    except OfflineModeIsEnabled:
        return None  # it may lie in the library's cache
    except HfHubHTTPError as error:
        what = f"the Hub gives no dataset {dataset} ({_first_line(error)})"
        raise DataError(f"{what}; is the name right, and does it need `hf auth login`?") from error
    except Exception as error:
        what = f"no folder {dataset} is here, and the Hub cannot be asked for a dataset of this name"
        raise DataError(f"{what} ({_first_line(error)}).") from error


@functools.lru_cache(maxsize=4)
def _stream(split: _Split) -> Any:
    return _opened(split, "load_dataset", split=split.split, streaming=True)


def _opened(of: _Split, function: str, **options: Any) -> Any:
    """Call a function of the library on a dataset. DataError in one sentence when that fails."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if "torch" not in sys.modules:
        datasets.config.TORCH_AVAILABLE = False  # it would be imported only to ask whether this is one of its workers
    try:
        return getattr(datasets, function)(of.dataset, of.subset, revision=of.revision, **options)
    except Exception as error:
        raise DataError(f"cannot open the dataset {of.dataset}: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    """What a library says, without its long explanations."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
