"""AdamW with decay groups, and its state by parameter name."""

from collections.abc import Iterable

import torch
from torch import nn

from megamodel.config import ModelConfig
from megamodel.gpt import GPT

MOMENTS = ("exp_avg", "exp_avg_sq")
"""The state of each parameter: running means of the gradient and of its square."""


def decays(name: str, dimensions: int) -> bool:
    """True for the parameters that weight decay pulls to zero: matrices, but not the table of learned positions."""
    return dimensions >= 2 and not name.startswith("embed_positions")


def build_adamw(
    parameters: Iterable[tuple[str, nn.Parameter]], betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) over whole or sharded parameters. The learning rate is set at each step.

    Its moments come into being at the first step, or by `allocate_moments`.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in parameters:
        groups[decays(name, parameter.dim())].append(parameter)
    settings = [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in settings if g["params"]], lr=0.0, betas=betas, eps=eps, fused=True)


def allocate_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter that has none yet its state: no updates, moments of zero."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                for moment in MOMENTS:
                    state[moment] = torch.zeros_like(parameter)


def state_key(kind: str, name: str) -> str:
    """A tensor's name in a checkpoint: `param/NAME` is the fp32 master, `exp_avg/NAME` and so on its moments."""
    return f"{kind}/{name}"


def state_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that training needs to go on, by its key: what a checkpoint must hold, whole."""
    with torch.device("meta"):
        model = GPT(config)
    return {
        state_key(kind, name): tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        for kind in ("param", *MOMENTS)
    }


def set_step(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Tell the bias correction how many updates there have been."""
    for state in optimizer.state.values():
        state["step"].fill_(step)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
