"""From the name in the configuration to an engine."""

from launcher.cluster.ranks import Ranks
from launcher.config import RunConfig
from launcher.engines.base import Engine
from launcher.engines.ddp import DdpEngine
from launcher.engines.deepspeed import DeepSpeedEngine
from launcher.engines.fsdp import FsdpEngine
from launcher.engines.pipeline import PipelineEngine
from launcher.engines.single import SingleEngine

ENGINES: dict[str, type[Engine]] = {
    "single": SingleEngine,
    "ddp": DdpEngine,
    "fsdp": FsdpEngine,
    "deepspeed": DeepSpeedEngine,
}


def engine_class(config: RunConfig) -> type[Engine]:
    """The engine that `engine.name` and the layout ask for."""
    engine = ENGINES[config.engine.name]
    return PipelineEngine if engine is FsdpEngine and config.parallel.pp > 1 else engine


def build_engine(config: RunConfig, ranks: Ranks, eos_id: int | None = None) -> Engine:
    """That engine, its model initialised from (seed, parameter names)."""
    return engine_class(config)(config, ranks, eos_id)
