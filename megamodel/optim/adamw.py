"""AdamW with decay groups, and its state by parameter name."""

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
"""The state of each parameter: running means of the gradient and of its square."""


def build_adamw(model: nn.Module, betas: tuple[float, float], eps: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) over a whole or sharded model, its state allocated at once.

    Matrices decay; norms, biases and the table of learned positions do not. The learning rate is set at each step.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() >= 2 and not name.startswith("embed_positions")
        (decayed if is_matrix else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(parameter)
    return optimizer


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor that training needs to go on, under its canonical name.

    `param/NAME` is the fp32 master, `exp_avg/NAME` and `exp_avg_sq/NAME` its moments. The tensors are the live ones.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"param/{name}"] = parameter.data
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    return tensors


def set_step(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Tell the bias correction how many updates there have been."""
    for state in optimizer.state.values():
        state["step"].fill_(step)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
