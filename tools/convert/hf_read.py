"""Read a Hugging Face folder of a family we know: config.json and safetensors, whole or in shards."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megamodel.config import ModelConfig
from megamodel.errors import ModelError
from megamodel.families import family_named

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_hf(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model's settings and its weights under our names, as stored; ModelError says what cannot be read."""
    description = _read_json(folder / CONFIG)
    family = family_named(str(description.get("model_type")))
    theirs = _read_tensors(folder)
    try:
        config = family.config_from_hf(description)
        return config, family.weights_from_hf(config, theirs)
    except KeyError as error:
        raise ModelError(f"{folder}: {error} is missing for a model of the family {family.NAME}") from None
    except (ValidationError, ModelError) as error:
        raise ModelError(f"{folder}: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: a JSON object was expected")
    return content


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    files = [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        files = [folder / name for name in sorted(set(_read_json(folder / INDEX).get("weight_map", {}).values()))]
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file}: cannot be read: {error}") from None
    return tensors
