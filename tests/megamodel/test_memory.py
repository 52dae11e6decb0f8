"""Activation memory: every mode computes the same, and keeps as much as it says."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from megamodel.config import ModelConfig
from megamodel.gpt import GPT
from megamodel.parallel.apply import BlockSettings, prepare_blocks
from tests.megamodel.models import random_weights

SHARED = {"vocab_size": 96, "hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
MODELS = {
    "llama": {**SHARED, "num_key_value_heads": 2, "intermediate_size": 160},
    "gpt2": {
        **SHARED,
        "intermediate_size": 192,
        "position_embedding": "learned",
        "norm": "layernorm",
        "activation": "gelu",
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
    },
}
TOKENS = torch.randint(96, (2, 129), generator=torch.Generator().manual_seed(1))


def build(name: str, settings: BlockSettings) -> GPT:
    torch._dynamo.reset()  # what is compiled for one model serves the next one of the same shapes
    config = ModelConfig(**MODELS[name])
    model = GPT(config)
    model.load_state_dict(random_weights(config))
    prepare_blocks(model, settings)
    return model


def outcome(model: GPT) -> list[torch.Tensor]:
    """Loss and every gradient."""
    loss = model(TOKENS[:, :-1], TOKENS[:, 1:])
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [loss.detach(), *gradients]


def kept(model: GPT) -> int:
    """Bytes that are still allocated after a forward pass because its backward pass will want them."""
    outcome(model)  # compile, if that is to be done
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss = model(TOKENS[:, :-1], TOKENS[:, 1:])
    assert loss.requires_grad
    return sum(event.self_cpu_memory_usage for event in profiler.key_averages())


MODES = {
    "full": BlockSettings("full"),
    "every_nth": BlockSettings("every_nth", 3),
    "selective": BlockSettings("selective"),
    "offloaded": BlockSettings(offload_activations=True),
    "full, offloaded": BlockSettings("full", offload_activations=True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_computed_again_is_the_same_bits(name: str, mode: str) -> None:
    reference, found = outcome(build(name, BlockSettings())), outcome(build(name, MODES[mode]))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, reference, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_each_mode_keeps_less_than_the_one_before(name: str) -> None:
    modes = {
        "none": BlockSettings(),
        "every 6th": BlockSettings("every_nth", 6),
        "selective": BlockSettings("selective"),
        "every 2nd": BlockSettings("every_nth", 2),
        "full": BlockSettings("full"),
    }
    sizes = [kept(build(name, settings)) for settings in modes.values()]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes), dict(zip(modes, sizes, strict=True))
    none, every_6th, _, every_2nd, full = sizes
    a_block = (none - full) / 6  # what is not an input, of each of the six blocks
    assert none - every_6th == pytest.approx(a_block, rel=0.01)
    assert none - every_2nd == pytest.approx(3 * a_block, rel=0.01)


def test_a_budget_is_kept_to() -> None:
    sizes = {}
    for budget in (0.0, 0.5, 1.0):
        sizes[budget] = kept(
            build("llama", BlockSettings("memory_budget", activation_memory_budget=budget, compile=True))
        )
    inputs, everything = sizes[0.0], sizes[1.0]
    assert inputs < sizes[0.5] <= inputs + 0.55 * (everything - inputs), sizes


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_compiled_blocks_compute_the_same_in_every_mode(name: str) -> None:
    eager = outcome(build(name, BlockSettings()))
    reference = outcome(build(name, BlockSettings(compile=True)))
    for ours, theirs in zip(reference, eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    modes = [*MODES.values(), BlockSettings("memory_budget", activation_memory_budget=0.3)]
    for mode in modes:
        settings = BlockSettings(**{**vars(mode), "compile": True})
        for ours, theirs in zip(outcome(build(name, settings)), reference, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_offloaded_activations_leave_it(compiled: bool) -> None:
    on_gpu, bits = {}, {}
    tokens = TOKENS.cuda()
    for offload in (False, True):
        model = build("llama", BlockSettings(offload_activations=offload, compile=compiled)).cuda()
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        before = torch.cuda.memory_allocated()
        loss = model(tokens[:, :-1], tokens[:, 1:])
        on_gpu[offload] = torch.cuda.memory_allocated() - before
        model.zero_grad()
        loss.backward()
        bits[offload] = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
    assert on_gpu[True] < on_gpu[False] / 4
    for ours, theirs in zip(bits[True], bits[False], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
