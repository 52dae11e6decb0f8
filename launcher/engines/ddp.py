"""Every rank holds the whole model; gradients are averaged in buckets while the backward pass runs."""

import contextlib

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from launcher.engines.single import SingleEngine


class DdpEngine(SingleEngine):
    """torch's DistributedDataParallel around the model of one process."""

    def _wrap(self) -> nn.Module:
        # DDP averages over ranks; the loss is divided by the global count already.
        self.loss_scale = float(self.ranks.world_size)
        self._ddp = DistributedDataParallel(
            self.parts[0],
            gradient_as_bucket_view=True,
            init_sync=False,
            bucket_cap_mb=self.config.engine.bucket_megabytes,
        )
        return self._ddp

    def _reduced(self, last: bool) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if last else self._ddp.no_sync()
