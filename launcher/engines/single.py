"""One process, one device."""

import torch

from launcher.engines.torch_engine import TorchEngine, block_settings
from megamodel.gpt import GPT
from megamodel.parallel.apply import prepare_blocks


class SingleEngine(TorchEngine):
    """The reference that every layout must agree with."""

    def _build_parts(self) -> list[GPT]:
        with torch.device("meta"):
            model = GPT(self.config.model, self.dtype)
        prepare_blocks(model, block_settings(self.config.engine))
        return [model]
