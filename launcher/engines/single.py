"""One process, one device."""

from torch import nn

from launcher.engines.base import Engine


class SingleEngine(Engine):
    """The reference that every layout must agree with."""

    def _distribute(self) -> nn.Module:
        self._materialise()
        return self.model
