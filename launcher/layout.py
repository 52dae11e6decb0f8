"""From the settings and the number of ranks to the arrangement of the ranks."""

from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.layout_checks import Case, layout_problems
from megamodel.parallel.mesh import Layout


def layout_of(config: RunConfig, world_size: int) -> Layout:
    """The arrangement that `engine` and `parallel` ask for; UserError for one that these ranks or this model forbid.

    dp_shard, when it is unset, is what the other axes leave; ddp replicates over all ranks, deepspeed shards over all.
    """
    for problem in layout_problems(config, world_size):
        raise UserError(f"{problem.setting}: {problem.message}")
    return Layout(*Case.of(config, world_size).sizes)
