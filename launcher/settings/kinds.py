"""Which schema a configuration file is for, told by the names at its top."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from launcher.cluster_config import ClusterConfig
from launcher.config import RunConfig, Settings
from launcher.yaml_config import top_level_names
from megamodel.config import ModelConfig


class ModelFragment(Settings):
    """A file in configs/models: only the architecture, for use as a run's base."""

    model: ModelConfig
    """The architecture."""


def schemas() -> dict[str, type[BaseModel]]:
    """Every kind of configuration file by its name."""
    from data_pipeline.config import PrepareConfig

    return {"run": RunConfig, "data": PrepareConfig, "model": ModelFragment, "cluster": ClusterConfig}


def kind_of(path: Path, overrides: Sequence[str] = ()) -> str:
    """The kind whose top-level names the file shares most. Raises UserError when it cannot be read at all."""
    names = top_level_names(path, overrides)
    if names == set(ModelFragment.model_fields):
        return "model"
    shared = {kind: len(names & set(schema.model_fields)) for kind, schema in schemas().items() if kind != "model"}
    return max(shared, key=lambda kind: shared[kind])
