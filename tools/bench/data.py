"""`data prepare` on one core, stage by stage, alone or beside datatrove: the same documents, the same tokenizer."""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import orjson

import data_pipeline
from data_pipeline.config import PrepareConfig
from data_pipeline.execute import prepare, train_tokenizer_on
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer.encoders import FastEncoder
from launcher.errors import UserError

VOCAB_SIZE = 32_000
_ONE_CORE = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_CLEANING = (
    {"step": "gopher_quality"},
    {"step": "repetition"},
    {"step": "fineweb"},
)
"""The same rules, with the same thresholds, as datatrove's three filters have by default."""
WORKLOADS: dict[str, dict[str, Any]] = {
    "shards": {},
    "cleaned": {"clean": _CLEANING, "deduplicate": {"exact": False, "near": {"threshold": 0.75}}},
}


def measure_data(
    megabytes: int, tokenizer: Path | None, datatrove: str | None, folder: Path | None
) -> list[dict[str, Any]]:
    """Prepare `megabytes` of text as shards, and a tenth of it cleaned and deduplicated; each in a process of its own.

    `tokenizer`: a folder; unset: one of 32,000 words is trained first. `datatrove`: an interpreter that has it, to do
    the same. `folder`: where to work. Returns for each workload megabytes, ours and, if asked for, theirs (seconds,
    cpu_seconds, megabytes_per_cpu_second, stages), times (ours over theirs) and, for shards, identical_bytes.
    """
    with tempfile.TemporaryDirectory(prefix="megamodel-", dir=folder) as temporary:
        root = Path(temporary)
        if tokenizer is None:
            tokenizer = root / "tokenizer"
            train_tokenizer_on([str(_sample())], VOCAB_SIZE).save(tokenizer)
        found = []
        for name, settings in WORKLOADS.items():
            file, size = _corpus(root / f"{name}.jsonl", megabytes if name == "shards" else megabytes // 10)
            found.append(_measure(root / name, name, settings, file, size, tokenizer, datatrove))
        return found


def _measure(
    root: Path, name: str, settings: dict[str, Any], file: Path, size: int, tokenizer: Path, datatrove: str | None
) -> dict[str, Any]:
    config = {
        "out": str(root / "ours"),
        "sources": [{"kind": "files", "files": [str(file)]}],
        "tokenizer": {"kind": "load", "path": str(tokenizer)},
        "validation_fraction": 0,
        "execution": {"workers": 1},
        **settings,
    }
    ours = _run([sys.executable, "-m", "tools.bench.data", json.dumps(config)])
    row: dict[str, Any] = {"workload": name, "megabytes": size / 1e6, "ours": _rated(ours, size)}
    if datatrove is None:
        return row
    task = {"what": name, "file": str(file), "tokenizer": str(tokenizer / "tokenizer.json")}
    task |= {"eos_token": _eos_token(tokenizer), "out": str(root / "theirs")}
    script = str(Path(__file__).with_name("datatrove_pipeline.py"))
    theirs = _run([datatrove, script, json.dumps(task)])
    row["theirs"] = _rated(theirs, size)
    row["times"] = row["ours"]["megabytes_per_cpu_second"] / row["theirs"]["megabytes_per_cpu_second"]
    row["documents"] = [_num_documents(next(path.glob("**/*.idx"))) for path in (root / "ours", root / "theirs")]
    if name == "shards":
        row["identical_bytes"] = all(_same(root, suffix) for suffix in ("bin", "idx"))
    return row


def _same(root: Path, suffix: str) -> bool:
    ours, theirs = (
        b"".join(path.read_bytes() for path in sorted((root / who).glob(f"**/*.{suffix}")))
        for who in ("ours", "theirs")
    )
    return ours == theirs


def _num_documents(index: Path) -> int:
    return int(np.fromfile(index, "<u8", 1, offset=18)[0])


def _rated(run: dict[str, Any], size: int) -> dict[str, Any]:
    return {**run, "megabytes_per_cpu_second": size / 1e6 / run["cpu_seconds"]}


def _run(command: list[str]) -> dict[str, Any]:
    """Run a process on one core and read the JSON it prints last."""
    try:
        done = subprocess.run(command, env={**os.environ, **_ONE_CORE}, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"{command[0]} cannot be started: {error.strerror}.") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"{command[0]} failed with code {done.returncode}: {last}.")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _eos_token(tokenizer: Path) -> str:
    token = json.loads((tokenizer / "tokenizer_config.json").read_bytes())["eos_token"]
    return str(token["content"] if isinstance(token, dict) else token)


def _sample() -> Path:
    return Path(data_pipeline.__path__[0]) / "sample/en.jsonl"


def _corpus(path: Path, megabytes: int) -> tuple[Path, int]:
    """Write documents of random paragraphs of the English sample; returns the file and the bytes of its text."""
    rows = (orjson.loads(line) for line in _sample().read_bytes().splitlines())
    paragraphs = [part for row in rows for part in row["text"].split("\n\n") if len(part) > 200]
    size = 0
    with path.open("wb") as file:
        for number, text in enumerate(_texts(paragraphs)):
            file.write(orjson.dumps({"id": f"random/{number}", "text": text}, option=orjson.OPT_APPEND_NEWLINE))
            size += len(text.encode())
            if size >= megabytes * 1e6:
                return path, size
    raise AssertionError("the texts never end")


def _texts(paragraphs: list[str]) -> Iterator[str]:
    draw = random.Random(0)
    weights = list(accumulate([4, 3, 2, 2, 1, 1, 1, 1]))
    while True:
        count = 1 + draw.choices(range(8), cum_weights=weights)[0]
        yield "\n\n".join(draw.sample(paragraphs, 2 * count))


def main(settings: str) -> None:
    """Prepare what the configuration says, and print the seconds: those without the loading of the vocabulary, which a
    preparation does twice and once for the fast encoder, are told apart, since datatrove's clock leaves it out."""
    config = PrepareConfig.model_validate_json(settings)
    path = config.tokenizer.model_dump()["path"]
    begun = time.process_time()
    Tokenizer.load(path)
    content = Tokenizer.load(path).to_json()
    if content:
        FastEncoder(content)
    loading = time.process_time() - begun
    start, begun = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        done = prepare(config)
    seconds, cpu = time.perf_counter() - start, time.process_time() - begun
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu - loading, "loading": loading, "stages": done.seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
