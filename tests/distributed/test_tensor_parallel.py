"""Tensor parallelism piece by piece: the table of cuts, the shared vocabulary, the collectives' gradients."""

import pytest
import torch
import torch.distributed as dist

import megamodel.layers.loss as loss_module
from megamodel.config import ModelConfig
from megamodel.gpt import GPT
from megamodel.layers.loss import IGNORE_INDEX, head_cross_entropy
from megamodel.parallel.tensor import (
    TABLE,
    _SharedVocabulary,
    apply_tensor_parallel,
    cut_dim,
    deal_out_tokens,
    gather_tokens,
)
from tests.conftest import GPT2, LLAMA, ROOT
from tests.ranks import in_ranks

ARCHITECTURES = [LLAMA, LLAMA | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}, GPT2]


def meta_model(settings) -> GPT:
    with torch.device("meta"):
        return GPT(ModelConfig(**settings))


def test_every_parameter_has_a_cut_and_every_row_of_the_table_a_module():
    names = [name for settings in ARCHITECTURES for name, _ in meta_model(settings).named_parameters()]
    assert {cut_dim(name) for name in names} == {None, 0, 1}
    modules = {".".join("*" if part.isdigit() else part for part in name.split(".")[:-1]) for name in names}
    assert modules == {module for module, _ in TABLE}


def test_the_guide_shows_the_table():
    guide = (ROOT / "docs" / "guides" / "layouts.md").read_text()
    assert all(f"| `{module}` | {cut.value} |" in guide for module, cut in TABLE)


def cut_boxes(settings):
    model = meta_model(settings)
    whole = {name: tuple(p.shape) for name, p in model.named_parameters()}
    cuts = apply_tensor_parallel(model, dist.group.WORLD)
    assert all(tuple(p.shape) == cuts[name].box.shape for name, p in model.named_parameters())
    assert all(cuts[name].shape == shape for name, shape in whole.items())
    return {
        name: [list(cut.box.offset), list(cut.box.shape), list(cut.shape), cut.speaks] for name, cut in cuts.items()
    }


@pytest.mark.parametrize("settings", ARCHITECTURES, ids=["llama", "llama-tied-biased", "gpt2"])
def test_what_the_ranks_speak_for_is_the_whole_once_even_with_an_odd_vocabulary(settings):
    ranks = in_ranks(cut_boxes, 2, settings | {"vocab_size": 323})
    for name in ranks[0]:
        covered = torch.zeros(ranks[0][name][2])
        for offset, shape, _, speaks in (rank[name] for rank in ranks):
            covered[tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))] += float(speaks)
        assert bool((covered == 1).all()), name


def shared_loss(x, weight, targets):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    first, end = (r * len(weight) // ranks for r in (rank, rank + 1))
    x, mine = x.clone().requires_grad_(), weight[first:end].clone().requires_grad_()
    loss_module._CHUNK_ELEMENTS["cpu"] = (35, 35)  # 17 words would take two rows at once, 18 words take one
    loss = head_cross_entropy(x, mine, targets, _SharedVocabulary(first, 18, dist.group.WORLD))
    loss.backward()
    return [loss.detach(), x.grad, mine.grad]


def test_a_shared_vocabulary_gives_the_loss_and_the_gradients_of_the_whole():
    torch.manual_seed(0)
    x, weight, targets = torch.randn(29, 8), torch.randn(53, 8) * 3, torch.randint(53, (29,))
    targets[5] = IGNORE_INDEX
    whole_x, whole = x.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(whole_x @ whole.t(), targets, reduction="sum")
    expected.backward()
    results = in_ranks(shared_loss, 3, x, weight, targets)
    assert all(torch.allclose(loss, expected, rtol=1e-6) for loss, _, _ in results)
    assert torch.allclose(sum(grad for _, grad, _ in results), whole_x.grad, atol=1e-5)
    assert torch.allclose(torch.cat([grad for _, _, grad in results]), whole.grad, atol=1e-5)


def there_and_back(x):
    """The sum over ranks of (rank + 1) * x, dealt out and gathered again, and the gradient of its weighted sum."""
    rank = dist.get_rank()
    x = x.clone().requires_grad_()
    y = gather_tokens(deal_out_tokens(x * (rank + 1), dist.group.WORLD), dist.group.WORLD)
    (y * torch.arange(y.numel()).view_as(y)).sum().backward()
    return [y.detach(), x.grad]


def test_dealing_out_and_gathering_are_each_others_gradient():
    x = torch.randn(2, 6, 3)
    for rank, (y, grad) in enumerate(in_ranks(there_and_back, 3, x)):
        assert torch.allclose(y, x * 6)
        # Each rank's loss is the whole sum, so the gradient is that of the three losses together.
        assert torch.allclose(grad, torch.arange(36.0).view(2, 6, 3) * 3 * (rank + 1))
