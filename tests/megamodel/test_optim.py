"""The schedule's corners, and which parameters decay."""

import itertools

import pytest
import torch

from megamodel.config import ModelConfig
from megamodel.gpt import GPT
from megamodel.init import initialize
from megamodel.optim.adamw import build_adamw, set_lr, state_shapes
from megamodel.optim.schedule import cosine, wsd
from megamodel.parallel.shard import holdings
from tests.conftest import GPT2


def test_cosine_rises_then_falls_to_the_ratio():
    factors = [cosine(step, 100, 10, 0.1) for step in range(1, 101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1.0
    assert factors[54] == pytest.approx(0.55)  # half way between the peak and the end
    assert factors[99] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(factors[9:]))


def test_wsd_stays_and_then_falls_in_a_line():
    factors = [wsd(step, 100, 10, 20, 0.0) for step in range(1, 101)]
    assert factors[4] == pytest.approx(0.5)
    assert set(factors[9:80]) == {1.0}
    assert factors[89] == pytest.approx(0.5)
    assert factors[99] == 0.0


def test_only_matrices_decay():
    model = GPT(ModelConfig(**GPT2))
    initialize(holdings(model.named_parameters()), model.config, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_adamw(model.named_parameters(), (0.9, 0.95), 1e-8, weight_decay=0.5)
    set_lr(optimizer, 0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    matrices = {name for name, p in model.named_parameters() if p.dim() == 2 and name != "embed_positions.weight"}
    assert moved == matrices


def test_the_state_has_every_parameter_once():
    names = {name for name, _ in GPT(ModelConfig(**GPT2)).named_parameters()}
    shapes = state_shapes(ModelConfig(**GPT2))
    assert shapes.keys() == {f"{kind}/{name}" for kind in ("param", "exp_avg", "exp_avg_sq") for name in names}
    assert "param/lm_head.weight" not in shapes  # tied: the table and the head are one parameter
