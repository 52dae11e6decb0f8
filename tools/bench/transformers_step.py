"""The same model in transformers, trained by the plainest PyTorch loop: what our step is measured against."""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.config import RunConfig
from launcher.errors import CheckFailed, UserError
from megamodel.families import family_of
from megamodel.gpt import GPT
from megamodel.init import draw
from tools.bench.workload import LR, Step, Workload


def transformers_step(work: Workload) -> Step:
    """A step with the same weights, tokens, compute type, clipping and fused AdamW; attention through SDPA."""
    model = _build(work.config).to(work.device).train()
    optimizer = _optimizer(model, work.config)
    clip = work.config.optimizer.max_grad_norm

    def step() -> Tensor:
        loss = torch.zeros((), device=work.device)
        for tokens in work.micro_batches:
            with _precision(work):
                logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            targets = tokens[:, 1:].flatten()
            micro_loss = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="sum") / work.tokens
            micro_loss.backward()
            loss += micro_loss.detach()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def _precision(work: Workload) -> contextlib.AbstractContextManager[Any]:
    """fp32 masters and bf16 compute are autocast in a plain loop."""
    if work.dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(work.device.type, work.dtype)


def _build(config: RunConfig) -> Any:
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError:
        raise UserError("transformers is not installed here: pip install 'megamodel[transformers]'") from None
    family = family_of(config.model)
    settings: dict[str, Any] = family.config_to_hf(config.model) | {"bos_token_id": 0, "eos_token_id": 0}
    description = AutoConfig.for_model(**settings)
    model = AutoModelForCausalLM.from_config(description, attn_implementation="sdpa", dtype=torch.float32)
    loaded = model.load_state_dict(family.weights_to_hf(config.model, _initial_weights(config)), strict=False)
    tied = {"lm_head.weight"} if config.model.tie_word_embeddings else set()
    if wrong := {*loaded.missing_keys, *loaded.unexpected_keys} - tied:
        raise CheckFailed(f"transformers has other weights than this model: {', '.join(sorted(wrong)[:3])}.")
    return model


def _initial_weights(config: RunConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in GPT(config.model).named_parameters()}
    return {name: draw(name, shape, config.model, config.seed) for name, shape in shapes.items()}


def _optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    settings = config.optimizer
    tables = ("wpe.weight",)  # as in our groups: the table of learned positions does not decay
    decayed = [p for name, p in model.named_parameters() if p.dim() >= 2 and not name.endswith(tables)]
    plain = [p for name, p in model.named_parameters() if p.dim() < 2 or name.endswith(tables)]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, betas=settings.betas, eps=settings.eps, fused=True)
