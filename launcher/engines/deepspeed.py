"""DeepSpeed's ZeRO (arXiv:1910.02054): the optimizer's state, gradients and weights sharded, and offloaded."""

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from launcher.cluster.ranks import Ranks
from launcher.config import RunConfig
from launcher.deepspeed_json import contradictions, deepspeed_json, offload_device
from launcher.engines.base import Engine, StepOutput
from launcher.engines.deepspeed_package import import_deepspeed, refusal, require_async_io, sharded_from_birth
from launcher.engines.deepspeed_state import flat_state
from launcher.engines.torch_engine import block_settings
from launcher.errors import UserError
from megamodel.checkpoint import Manifest, load_into
from megamodel.gpt import GPT
from megamodel.init import initialize
from megamodel.optim.adamw import decays, set_lr, state_key, state_shapes
from megamodel.parallel.apply import prepare_blocks
from megamodel.parallel.shard import Holding

_PARAM = state_key("param", "")


class DeepSpeedEngine(Engine):
    """ZeRO-1, 2 or 3 around torch's AdamW; DeepSpeed reduces, clips and steps, the meaning of each stays ours."""

    def __init__(self, config: RunConfig, ranks: Ranks, eos_id: int | None = None) -> None:
        super().__init__(config, ranks, eos_id)
        self.json = self._json()
        self.stage = int(self.json["zero_optimization"]["stage"])
        self.dtype = torch.bfloat16 if self.json["bf16"]["enabled"] else torch.float32
        self._deepspeed = import_deepspeed(ranks, timedelta(seconds=config.engine.timeout_seconds))
        self._check()
        shapes = state_shapes(config.model)
        self._shapes = {key.removeprefix(_PARAM): shape for key, shape in shapes.items() if key.startswith(_PARAM)}
        self._model = self._build_model()
        self._parameters = list(self._model.named_parameters())
        self.module, zero = self._wrap()
        self._flat = flat_state(zero, self.stage, self._parameters, self._shapes)
        self._draw_weights()

    def _json(self) -> dict[str, Any]:
        precision: Literal["fp32", "bf16"] = "bf16" if self.dtype == torch.bfloat16 else "fp32"
        json = deepspeed_json(self.config, self.ranks.world_size, precision)
        if self.ranks.first:
            for contradiction in contradictions(self.config, self.ranks.world_size, precision):
                print(f"warning: {contradiction}", file=sys.stderr, flush=True)
        return json

    def _check(self) -> None:
        why = refusal(self.json, self.config.engine.deepspeed.raw)
        if why is not None:
            raise UserError(f"engine.deepspeed.raw: DeepSpeed does not take it: {why}")
        zero = self.json["zero_optimization"]
        if any(offload_device(zero, what) == "nvme" for what in ("offload_optimizer", "offload_param")):
            require_async_io()

    def _build_model(self) -> GPT:
        """The model with storage for its weights but no values: whole, or with stage 3 one stretch of each parameter.

        With stage 3 a module's parameters are whole only while that module is made.
        """
        if self.stage == 3:
            with sharded_from_birth(self.json):
                model = GPT(self.config.model, self.dtype)
            # The head multiplies with a weight of another module, or with one outside its module's forward pass.
            head = model.embed_tokens if self.config.model.tie_word_embeddings else model.lm_head
            self._deepspeed.zero.register_external_parameter(model, head.weight)
        else:
            with torch.device("meta"):
                model = GPT(self.config.model, self.dtype).to(self.dtype)
            model.to_empty(device=self.ranks.device)
        prepare_blocks(model, block_settings(self.config.engine), fullgraph=self.stage != 3)
        return model

    def _wrap(self) -> tuple[Any, Any]:
        """DeepSpeed's engine around the model, and its optimizer around torch's."""
        try:
            module, zero, _, _ = self._deepspeed.initialize(
                model=self._model, optimizer=self._adamw(), config=self.json, dist_init_required=False
            )
        except (AssertionError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"engine.name=deepspeed: DeepSpeed does not take these settings: {error or repr(error)}. "
                "`megamodel config show` prints what it is given"
            ) from error
        return module, zero

    def _adamw(self) -> torch.optim.AdamW:
        """AdamW as every engine has it. What decays is told from the whole shapes: ZeRO-3's parameters have none."""
        settings, groups = self.config.optimizer, []
        for decay, weight_decay in ((True, settings.weight_decay), (False, 0.0)):
            members = [p for name, p in self._parameters if decays(name, len(self._shapes[name])) == decay]
            groups.append({"params": members, "weight_decay": weight_decay})
        return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)

    def _draw_weights(self) -> None:
        """Draw this rank's part of the fp32 weights, and let the ranks compute with them, in their compute type."""
        partitions = self._flat.partitions()
        for partition in partitions:
            partition["param"].zero_()  # padding has no name
        weights = {
            key.removeprefix(_PARAM): holding
            for key, holding in self._flat.holdings(partitions).items()
            if key.startswith(_PARAM)
        }
        initialize(weights, self.config.model, self.config.seed)
        self._flat.take_over(partitions, step=0)

    def train_step(self, micro_batches: Sequence[Tensor], target_tokens: int, lr: float) -> StepOutput:
        """See `Engine`. DeepSpeed averages gradients over the ranks; the factor on the loss cancels that."""
        set_lr(self.module.optimizer, lr)
        loss = torch.zeros((), dtype=torch.float32, device=self.ranks.device)
        for tokens in micro_batches:
            micro_loss = self._loss_sum(tokens) / target_tokens
            self.module.backward(micro_loss * self.ranks.world_size, scale_wrt_gas=False)
            self.module.step()
            loss += micro_loss.detach()
        norm = torch.as_tensor(self.module.get_global_grad_norm(), dtype=torch.float32, device=self.ranks.device)
        return StepOutput(self.sum_over_ranks(loss), norm)

    def state(self) -> dict[str, Holding]:
        """See `Engine`. With the optimizer on NVMe these are copies of what lies there."""
        return self._flat.holdings(self._flat.partitions())

    def load(self, checkpoint: Path, reset_optimizer: bool = False) -> Manifest:
        """See `Engine`."""
        partitions = self._flat.partitions()
        targets = self._flat.holdings(partitions)
        manifest = load_into(checkpoint, targets, state_shapes(self.config.model), reset_optimizer)
        self._flat.take_over(partitions, 0 if reset_optimizer else manifest.optimizer_updates)
        return manifest
