"""Published families: which a model is, and its names and configuration there, both ways. One module a family."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from megamodel.config import ModelConfig
from megamodel.errors import ModelError
from megamodel.families import gpt2, llama


class Family(Protocol):
    """What a family's module offers."""

    NAME: str
    """`model_type` in config.json."""

    def matches(self, config: ModelConfig) -> list[str]:
        """Settings that keep a model from being of this family; none: it is."""

    def weights_to_hf(self, config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under the family's names and layouts."""

    def weights_from_hf(self, config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The family's tensors under our names and layouts; KeyError names a missing one."""

    def config_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The architecture part of config.json."""

    def config_from_hf(self, hf: Mapping[str, Any]) -> ModelConfig:
        """The model that a config.json describes."""


FAMILIES: dict[str, Family] = {gpt2.NAME: gpt2, llama.NAME: llama}
"""Every family, by `model_type`."""


def family_of(config: ModelConfig) -> Family:
    """The published family that the configuration is exactly; ModelError says what keeps it from each."""
    blockers = {name: family.matches(config) for name, family in FAMILIES.items()}
    for name, problems in blockers.items():
        if not problems:
            return FAMILIES[name]
    reasons = "; ".join(f"to be {name}, {', '.join(problems)}" for name, problems in blockers.items())
    raise ModelError(f"this model is of no published family: {reasons}.")


def family_named(model_type: str) -> Family:
    """The family of a config.json's `model_type`; ModelError names those there are."""
    if model_type not in FAMILIES:
        raise ModelError(f"config.json: model_type {model_type!r} is not one of {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


__all__ = ["FAMILIES", "Family", "family_named", "family_of"]
