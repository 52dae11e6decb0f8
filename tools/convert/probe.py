"""A second model for the proof: the same settings, two layers, random weights under which every setting counts.

Attention of a model that has hardly learned is nearly uniform: there even a wrong rotary base changes no logit enough.
"""

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.tokenizer import Tokenizer
from megamodel.config import ModelConfig
from megamodel.gpt import GPT
from tools.convert.hf_write import write_hf
from tools.convert.reference import make_reference, write_reference
from tools.convert.source import Source

_LAYERS = 2
_GAIN = 2.0
"""Width of queries and keys: their products spread by its square, so that attention decides."""
_RESIDUAL = ("embed_tokens.weight", "embed_positions.weight", "o_proj", "down_proj")


def make_probe(source: Source, config: ModelConfig, dtype: torch.dtype) -> Source:
    """A model of these settings with the source's tokenizer; the same one each time."""
    config = config.model_copy(update={"num_hidden_layers": min(_LAYERS, config.num_hidden_layers)})
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in GPT(config).named_parameters()}
    weights = {name: _draw(name, shape, config, generator).to(dtype) for name, shape in shapes.items()}
    return replace(source, name=f"a random model like {source.name}", config=config, weights=weights)


def write_probe(root: Path, probe: Source) -> tuple[Path, Path]:
    """Write it as an export is written; return its folder and the reference for the checking process."""
    folder, reference = root / "probe", root / "probe.safetensors"
    folder.mkdir()
    write_hf(folder, probe.config, probe.weights, probe.tokenizer)
    tensors = make_reference(probe.build(), Tokenizer.load(probe.tokenizer))
    write_reference(reference, tensors, label="random weights: ", texts=())
    return folder, reference


def _draw(name: str, shape: torch.Size, config: ModelConfig, generator: torch.Generator) -> Tensor:
    """Norms near one, wide matrices; what the residual stream is made of is so small that norm_eps counts."""
    value = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 0.3 * value + (1.0 if name.endswith("weight") else 0.0)
    if any(part in name for part in _RESIDUAL):
        value *= math.sqrt(config.norm_eps)
    if "embed" in name:
        return value
    return _GAIN * value / math.sqrt(shape[1]) if len(shape) == 2 else 0.3 * value
