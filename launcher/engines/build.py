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


def build_engine(config: RunConfig, ranks: Ranks, eos_id: int | None = None) -> Engine:
    """The engine that `engine.name` asks for, its model initialised from (seed, parameter names)."""
    engine = ENGINES[config.engine.name]
    if engine is FsdpEngine and config.parallel.pp > 1:
        engine = PipelineEngine
    return engine(config, ranks, eos_id)
