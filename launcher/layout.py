"""From the settings and the number of ranks to the arrangement of the ranks."""

from launcher.config import RunConfig
from launcher.errors import UserError
from megamodel.parallel.mesh import Layout


def layout_of(config: RunConfig, world_size: int) -> Layout:
    """The arrangement that `engine` and `parallel` ask for; UserError when it does not take just `world_size` ranks.

    dp_shard, when it is unset, is what the other axes leave; ddp replicates over all ranks, deepspeed shards over all.
    """
    if config.engine.name == "single":
        layout = Layout()
    elif config.engine.name == "ddp":
        layout = Layout(dp_replicate=world_size)
    elif config.engine.name == "deepspeed":
        layout = Layout(dp_shard=world_size)
    else:
        parallel = config.parallel
        others = parallel.pp * parallel.dp_replicate * parallel.cp * parallel.tp
        shard = parallel.dp_shard or max(1, world_size // others)
        layout = Layout(parallel.pp, parallel.dp_replicate, shard, parallel.cp, parallel.tp)
    if layout.world_size != world_size:
        raise UserError(
            f"{layout} is {layout.world_size} ranks, but {world_size} were started; "
            "leave parallel.dp_shard unset to take what the other axes leave"
        )
    return layout
