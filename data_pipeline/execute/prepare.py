"""`data prepare`: from raw files to a tokenizer and shard sets for training and validation, in one go.

Everything is made in a hidden folder beside OUT and renamed to OUT at the end, so OUT is never half done. prepared.json
in it says from what it was made; while that still holds, a second run has nothing to do.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import tokenizers

from data_pipeline.config import PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.execute.tokenize import reading, write_documents
from data_pipeline.files import folder_aside, sync_folder, write_atomically
from data_pipeline.read import Document, expand
from data_pipeline.shards import Manifest, ShardSet, ShardWriter, describe_sources
from data_pipeline.tokenizer import Tokenizer, train_tokenizer
from data_pipeline.tokenizer.settings import LoadTokenizer

STAMP = "prepared.json"
_OURS = re.compile(
    rf"{re.escape(STAMP)}|tokenizer|tokenizer/tokenizer(_config)?\.json|(train|validation)"
    r"(\.manifest\.json|_\d{5,}_(text_document\.(bin|idx)|documents\.npy))"
)
"""Every name in a folder that `prepare` made."""


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made or found."""

    out: Path
    tokenizer: Tokenizer
    sets: dict[str, Manifest]
    """By name: train and, where there is one, validation."""
    up_to_date: bool
    """True when there was nothing to do."""


def prepare(config: PrepareConfig, force: bool = False) -> Prepared:
    """Do what the configuration says, unless it is done already; `force` does it again.

    The same configuration and the same files give the same bytes, on any number of cores.
    """
    paths = expand(_files(config))
    stamp = _stamp(config, paths)
    if not force and _holds(config.out, stamp):
        return _opened(config.out, up_to_date=True)
    out = config.out.resolve()
    _refuse_inputs_inside(out, config, paths)
    try:
        with folder_aside(out) as aside:
            _refuse_to_replace_others(out)
            new = aside / "new"
            new.mkdir()
            _make(config, paths, new)
            write_atomically(new / STAMP, json.dumps(stamp, indent=1, ensure_ascii=False).encode())
            _put_in_place(new, out)
    except OSError as error:
        raise DataError(f"cannot write {config.out}: {error.strerror or error}.") from error
    return _opened(config.out, up_to_date=False)


def _files(config: PrepareConfig) -> list[str]:
    return [file for source in config.sources if source.kind == "files" for file in source.files]


def is_validation(document: Document, fraction: float, seed: int) -> bool:
    """Decide the split by a keyed hash of the document's identity: adding files moves no other document."""
    digest = hashlib.blake2b(document.identity.encode(), key=str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < Fraction(fraction) * 2**64


def _make(config: PrepareConfig, paths: list[Path], folder: Path) -> None:
    """Fill the folder: tokenizer first, then both shard sets in one pass."""
    tokenizer = _tokenizer(config, paths)
    tokenizer.save(folder / "tokenizer")
    sources = describe_sources(paths)
    arguments = (tokenizer, sources, config.tokens_per_shard, config.sources[0].text_field, config.sources[0].id_field)
    with (
        ShardWriter(folder / "train", *arguments) as train,
        ShardWriter(folder / "validation", *arguments) as validation,
    ):
        with reading("tokenizing", paths, config.sources[0].text_field, config.sources[0].id_field) as documents:
            write_documents(documents, tokenizer, lambda d: validation if _is_validation(d, config) else train)
        _check_split(config, train.num_documents, validation.num_documents)
        train.commit()
        if config.validation_fraction:
            validation.commit()
        else:
            validation.abandon()


def _tokenizer(config: PrepareConfig, paths: list[Path]) -> Tokenizer:
    """Load the tokenizer, or train it on the training side of the split only."""
    if isinstance(config.tokenizer, LoadTokenizer):
        return Tokenizer.load(config.tokenizer.path)
    with reading(
        "training the tokenizer", paths, config.sources[0].text_field, config.sources[0].id_field
    ) as documents:
        texts = (d.text for d in documents if not _is_validation(d, config))
        return train_tokenizer(texts, config.tokenizer.vocab_size, config.tokenizer.model_max_length)


def _is_validation(document: Document, config: PrepareConfig) -> bool:
    return is_validation(document, config.validation_fraction, config.split_seed)


def _check_split(config: PrepareConfig, train: int, validation: int) -> None:
    if train + validation == 0:
        raise DataError(f"the corpus is empty: no document with text in {', '.join(_files(config))}.")
    if train == 0 or (config.validation_fraction and validation == 0):
        raise DataError(
            f"validation_fraction={config.validation_fraction} splits {train + validation} documents into {train} for "
            f"training and {validation} for validation; both need at least one: change the fraction or split_seed, "
            "or add documents."
        )


def _stamp(config: PrepareConfig, paths: list[Path]) -> dict[str, Any]:
    """Everything the result depends on: the settings, the files (by size and time of change), the tokenizer."""
    stamp: dict[str, Any] = {
        "config": config.model_dump(mode="json", exclude={"out"}),
        "tokenizers": tokenizers.__version__,
    }
    stamp["files"] = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    if isinstance(config.tokenizer, LoadTokenizer):
        stamp["tokenizer_sha256"] = Tokenizer.load(config.tokenizer.path).digest
    return stamp


def _holds(out: Path, stamp: dict[str, Any]) -> bool:
    """True when OUT was made from just this and all its files are still there."""
    try:
        if json.loads((out / STAMP).read_bytes()) != stamp:
            return False
        Tokenizer.load(out / "tokenizer")
        for name in _set_names(out):
            ShardSet.open(out / name).check_sizes()
    except (OSError, ValueError, DataError):
        return False
    return True


def _set_names(out: Path) -> list[str]:
    with_validation = json.loads((out / STAMP).read_bytes())["config"]["validation_fraction"] > 0
    return ["train", "validation"] if with_validation else ["train"]


def _opened(out: Path, up_to_date: bool) -> Prepared:
    sets = {name: ShardSet.open(out / name).manifest for name in _set_names(out)}
    return Prepared(out, Tokenizer.load(out / "tokenizer"), sets, up_to_date)


def _refuse_to_replace_others(out: Path) -> None:
    """Only what an earlier `prepare` made may be replaced."""
    if not out.exists():
        return
    names = [str(path.relative_to(out)) for path in out.rglob("*")] if out.is_dir() else [out.name]
    others = [name for name in names if not _OURS.fullmatch(name)] if STAMP in names else names
    if others:
        raise DataError(
            f"{out} holds {min(others)}, which `data prepare` did not make; it replaces its folder whole: "
            "choose another `out`."
        )


def _refuse_inputs_inside(out: Path, config: PrepareConfig, paths: list[Path]) -> None:
    tokenizer = [config.tokenizer.path] if isinstance(config.tokenizer, LoadTokenizer) else []
    for path in [*paths, *tokenizer]:
        if path.resolve().is_relative_to(out):
            raise DataError(f"{path} lies inside {out}, the folder that is replaced whole: choose another `out`.")


def _put_in_place(new: Path, out: Path) -> None:
    """Rename the finished folder to OUT; an older one steps aside first, to where `folder_aside` would find it."""
    if out.exists():
        out.rename(new.with_name("old"))
    new.rename(out)
    sync_folder(out.parent)
