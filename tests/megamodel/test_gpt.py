"""The decoder: its loss, its memory, its cache, its precision, its initial weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from megamodel.config import ModelConfig
from megamodel.gpt import GPT
from megamodel.init import initialize
from megamodel.layers import loss as loss_module
from megamodel.layers.attention import KVCache
from megamodel.layers.loss import IGNORE_INDEX, head_cross_entropy, rows_at_once
from megamodel.parallel.shard import holdings
from tests.megamodel.models import CONFIGS, our_model, random_weights

TOKENS, WIDTH, VOCAB = 50, 16, 300


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any result had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def chunked(monkeypatch: pytest.MonkeyPatch, rows: int, vocab: int = VOCAB) -> None:
    monkeypatch.setitem(loss_module._CHUNK_ELEMENTS, "cpu", (rows * vocab, rows * vocab))


def head_inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(TOKENS, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH, generator=generator, requires_grad=True)
    targets = torch.randint(VOCAB, (TOKENS,), generator=generator)
    targets[::7] = IGNORE_INDEX
    return x, weight, targets


@pytest.mark.parametrize("rows", [1, 7, 25, 1000])
def test_head_cross_entropy_equals_torch(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chunked(monkeypatch, rows)
    x, weight, targets = head_inputs()
    (head_cross_entropy(x, weight, targets) / 40).backward()
    expected_x, expected_weight, _ = (t.detach().clone().requires_grad_(t.is_floating_point()) for t in head_inputs())
    expected = F.cross_entropy(expected_x @ expected_weight.t(), targets, ignore_index=IGNORE_INDEX, reduction="sum")
    (expected / 40).backward()
    assert head_cross_entropy(x, weight, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(x.grad, expected_x.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad, expected_weight.grad, rtol=1e-5, atol=1e-6)


def test_a_wider_model_forms_more_logits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss_module._CHUNK_ELEMENTS, "cpu", (2**10, 2**14))
    rows = [rows_at_once(torch.empty(16, width, device="cpu"), words=64) for width in (1, 8, 16, 64, 128, 1024)]
    assert rows == [16, 16, 32, 128, 256, 256]
    assert rows_at_once(torch.empty(1, 1), words=10**6) == 1


def test_head_cross_entropy_survives_huge_logits() -> None:
    x, weight, targets = head_inputs()
    loss = head_cross_entropy(x * 1e4, weight, targets)
    loss.backward()
    assert math.isfinite(loss.item()) and torch.isfinite(x.grad).all()


def test_only_ignored_targets_give_zero_and_no_gradient() -> None:
    x, weight, targets = head_inputs()
    loss = head_cross_entropy(x, weight, torch.full_like(targets, IGNORE_INDEX))
    loss.backward()
    assert loss.item() == 0 and not x.grad.any() and not weight.grad.any()


def test_the_whole_logits_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS["llama"].model_copy(update={"vocab_size": 4096, "num_hidden_layers": 1})
    chunked(monkeypatch, rows=8, vocab=4096)
    model = our_model(config, random_weights(config))
    tokens = torch.randint(4096, (8, 65))
    whole_logits = 8 * 64 * 4096
    with LargestTensor() as largest:
        model(tokens[:, :-1], tokens[:, 1:]).backward()
    assert largest.elements <= 4096 * 64 < whole_logits, "nothing is larger than the embedding table"
    with LargestTensor() as largest:
        model(tokens[:, :-1])
    assert largest.elements == whole_logits, "the recorder would have seen them"


@pytest.mark.parametrize("name", ["llama-gqa-tied", "gpt2"])
def test_loss_is_the_sum_over_targets(name: str) -> None:
    config = CONFIGS[name]
    model = our_model(config, random_weights(config))
    tokens = torch.randint(config.vocab_size, (3, 33))
    targets = tokens[:, 1:].clone()
    targets[0, :5] = IGNORE_INDEX
    logits = model(tokens[:, :-1])
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    assert model(tokens[:, :-1], targets).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_cache_gives_the_same_logits(name: str) -> None:
    config = CONFIGS[name]
    model = our_model(config, random_weights(config))
    ids = torch.randint(config.vocab_size, (2, 40))
    cache = KVCache(config, batch=2, max_tokens=40, device=torch.device("cpu"), dtype=torch.float32)
    spans = [slice(0, 10), slice(10, 11), slice(11, 30), slice(30, 40)]
    pieces = [model(ids[:, span], cache=cache) for span in spans]
    whole = model(ids)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


@torch.no_grad()
def test_a_token_sees_only_those_before_it() -> None:
    config = CONFIGS["llama"]
    model = our_model(config, random_weights(config))
    ids = torch.randint(config.vocab_size, (1, 20))
    changed = ids.clone()
    changed[0, 12] = (changed[0, 12] + 1) % config.vocab_size
    same = (model(ids) == model(changed)).all(dim=-1)[0]
    assert same[:12].all() and not same[12:].any()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_bf16_computes_near_fp32_and_keeps_fp32_gradients(name: str) -> None:
    config = CONFIGS[name]
    weights = random_weights(config)
    tokens = torch.randint(config.vocab_size, (2, 33))
    model = GPT(config, torch.bfloat16)
    model.load_state_dict(weights)
    loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    reference = our_model(config, weights)(tokens[:, :-1], tokens[:, 1:])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference.item(), rel=0.01) and loss.item() != reference.item()
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in model.parameters())


def initial(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    model = GPT(config)
    initialize(holdings(model.named_parameters()), config, seed)
    return dict(model.named_parameters())


def test_initial_weights_depend_on_seed_and_name_only() -> None:
    config = CONFIGS["llama"]
    torch.manual_seed(0)
    first = initial(config, 7)
    torch.manual_seed(99)
    assert all(torch.equal(first[name], value) for name, value in initial(config, 7).items())
    deeper = initial(config.model_copy(update={"num_hidden_layers": 3}), 7)
    assert torch.equal(first["layers.1.mlp.up_proj.weight"], deeper["layers.1.mlp.up_proj.weight"])
    assert not torch.equal(first["layers.1.mlp.up_proj.weight"], initial(config, 8)["layers.1.mlp.up_proj.weight"])
    assert not torch.equal(first["layers.0.mlp.up_proj.weight"], first["layers.1.mlp.up_proj.weight"])


def test_initial_weights_have_the_configured_spread() -> None:
    config = CONFIGS["gpt2"]
    weights = {name: value.detach() for name, value in initial(config, 7).items()}
    assert float(weights["embed_tokens.weight"].std()) == pytest.approx(0.1, rel=0.05)
    assert float(weights["layers.0.mlp.down_proj.weight"].std()) == pytest.approx(0.1 / 2, rel=0.05)
    assert (weights["norm.weight"] == 1).all() and not weights["layers.0.self_attn.q_proj.bias"].any()
