"""Write a Hugging Face folder: weights, configuration, generation settings, tokenizer."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from data_pipeline.tokenizer import Tokenizer
from megamodel.config import ModelConfig
from megamodel.families import family_of
from tools.convert.hf_read import CONFIG, INDEX, WEIGHTS

SHARD_BYTES = 5_000_000_000
"""A weights file holds at most this much, unless one tensor alone is larger."""


def write_hf(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer_folder: Path,
) -> None:
    """Fill an existing folder with everything that transformers loads. The weights keep their type."""
    family = family_of(config)
    tokenizer = Tokenizer.load(tokenizer_folder)
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    # In training every document follows an end-of-document token, so that token is what a text begins with, too.
    ids = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    description = family.config_to_hf(config) | ids | {"dtype": dtype, "torch_dtype": dtype, "use_cache": True}
    _write_json(folder / CONFIG, description)
    _write_json(folder / "generation_config.json", ids)
    _write_tokenizer(folder, tokenizer, config.max_position_embeddings)
    _write_weights(folder, family.weights_to_hf(config, weights))


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, longest: int) -> None:
    """tokenizer.json (and sentencepiece's model) as it is, and settings that transformers 4 and 5 both read."""
    tokenizer.save(folder)
    settings = tokenizer.config | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest}
    _write_json(folder / "tokenizer_config.json", settings)
    special = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
    _write_json(folder / "special_tokens_map.json", {name: settings[name] for name in special if settings.get(name)})


def _write_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    shards = _shards(tensors)
    files = (
        [WEIGHTS]
        if len(shards) == 1
        else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    )
    for file, names in zip(files, shards, strict=True):
        save_file({name: tensors[name].contiguous() for name in names}, folder / file, metadata={"format": "pt"})
        # safetensors makes its files private; these are for whoever may read the folder.
        (folder / file).chmod((folder / CONFIG).stat().st_mode & 0o777)
        _sync(folder / file)
    if len(shards) > 1:
        totals = {
            "total_size": sum(t.nbytes for t in tensors.values()),
            "total_parameters": sum(t.numel() for t in tensors.values()),
        }
        places = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        _write_json(folder / INDEX, {"metadata": totals, "weight_map": places})


def _shards(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Names in their order, cut whenever a file would grow over SHARD_BYTES."""
    shards: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        if not shards or tensor.nbytes > room:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= tensor.nbytes
    return shards


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
