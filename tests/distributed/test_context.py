"""Context parallelism: ranks that share sequences attend as one process does, forward and backward."""

from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses import FakeTensorMode

from megamodel.gpt import GPT
from megamodel.layers.attention import causal_attention
from megamodel.parallel import attention_kernels, block_attention
from megamodel.parallel.attention_kernels import BIAS_ALIGNMENT, Rows
from megamodel.parallel.block_attention import Sight, attend_block, attend_block_backward
from megamodel.parallel.context import apply_context_parallel, tokens_of_rank
from megamodel.parallel.ring import ring_attention
from megamodel.parallel.ulysses import ulysses_attention
from tests.megamodel.models import CONFIGS, random_weights
from tests.ranks import in_ranks

METHODS = {"ring": ring_attention, "ulysses": ulysses_attention}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@dataclass(frozen=True)
class Case:
    """Queries [batch, heads, tokens, size], documents that start at `starts` (a list a sequence)."""

    heads: int
    kv_heads: int
    tokens: int
    starts: tuple[tuple[int, ...], ...] | None = None
    batch: int = 2
    size: int = 16

    def inputs(self, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys, values and the gradient of the result; some scores are large."""
        generator = torch.Generator().manual_seed(self.tokens)
        heads = (self.heads, self.kv_heads, self.kv_heads, self.heads)
        shapes = [(self.batch, self.tokens, count, self.size) for count in heads]
        q, k, v, grad = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
        return tuple(x.to(device, dtype).transpose(1, 2) for x in (3 * q, k, v, grad))

    def documents(self) -> Tensor | None:
        if self.starts is None:
            return None
        begins = torch.zeros(self.batch, self.tokens, dtype=torch.int64)
        for row, starts in zip(begins, self.starts, strict=True):
            row[list(starts)] = 1
        return begins.cumsum(1)


# With 4 ranks, 56 tokens are pieces of 7 in the ring, and 40 are pieces of 5.
CASES = {
    "heads": Case(4, 4, 56),
    "grouped heads": Case(8, 2, 56),
    "one key/value head": Case(4, 1, 40),
    "one token a piece": Case(4, 2, 8),
    "documents": Case(8, 2, 56, ((0, 3, 17, 18, 45), (0, 30))),
    "documents of one token": Case(4, 1, 40, (tuple(range(40)), (*range(9), 20, 21))),
    "documents that end with pieces": Case(4, 4, 40, ((0, 5, 10, 15, 20, 25, 30, 35), (0, 20))),
}


def with_gradients(attend, q: Tensor, k: Tensor, v: Tensor, grad: Tensor, documents: Tensor | None) -> list[Tensor]:
    """The result and the gradients of q, k, v."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves, documents)
    out.backward(grad)
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def attend_in_rank(method: str, cases: list[Case], dtype: torch.dtype) -> list[list[Tensor]]:
    """What this rank has of each case's result and gradients."""
    block_attention._MASK_ELEMENTS["cpu"] = 200  # a few rows of these small masks
    rank, ranks = dist.get_rank(), dist.get_world_size()
    results = []
    for case in cases:
        mine = tokens_of_rank(case.tokens, ranks, rank, method)
        q, k, v, grad = (x[:, :, mine] for x in case.inputs(dtype))

        def attend(*arguments):
            return METHODS[method](*arguments, group=dist.group.WORLD)

        results.append(with_gradients(attend, q, k, v, grad, case.documents()))
    return results


def attend_in_ranks(method: str, ranks: int, cases: list[Case], dtype: torch.dtype) -> list[list[Tensor]]:
    """Result and gradients of each case, put together from the ranks'."""
    parts = in_ranks(attend_in_rank, ranks, method, cases, dtype)
    whole = []
    for index, case in enumerate(cases):
        order = torch.cat([tokens_of_rank(case.tokens, ranks, rank, method) for rank in range(ranks)])
        joined = [torch.cat(tensors, dim=2) for tensors in zip(*(part[index] for part in parts), strict=True)]
        whole.append([x[:, :, order.argsort()] for x in joined])
    return whole


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over largest value; NaN where one of the two has a NaN."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_ranks_attend_as_one_process(method: str, ranks: int) -> None:
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        results = attend_in_ranks(method, ranks, list(CASES.values()), dtype)
        for (name, case), ours in zip(CASES.items(), results, strict=True):
            theirs = with_gradients(causal_attention, *case.inputs(dtype), case.documents())
            for what, mine, whole in zip(("result", "q", "k", "v"), ours, theirs, strict=True):
                assert difference(mine, whole) <= bound, f"{name}, {what}, {dtype}"


@pytest.mark.parametrize("method", METHODS)
def test_bf16_is_as_near_as_in_one_process(method: str) -> None:
    cases = [CASES["grouped heads"], CASES["documents"]]
    results = attend_in_ranks(method, 4, cases, torch.bfloat16)
    for case, ours in zip(cases, results, strict=True):
        exact = with_gradients(causal_attention, *(x.double() for x in case.inputs(torch.bfloat16)), case.documents())
        usual = with_gradients(causal_attention, *case.inputs(torch.bfloat16), case.documents())
        for mine, theirs, truth in zip(ours, usual, exact, strict=True):
            assert mine.dtype == torch.bfloat16
            error, usual_error = ((x.double() - truth).square().mean() for x in (mine, theirs))
            assert error <= 1.5**2 * usual_error


def test_heads_that_ranks_cannot_share_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"6 attention heads cannot be shared by 4 ranks: set parallel\.cp_method"):
        in_ranks(attend_in_rank, 4, "ulysses", [Case(6, 2, 8)], torch.float32)


@pytest.mark.parametrize(("method", "expected"), [("ring", [0, 1, 6, 7]), ("ulysses", [0, 1, 2, 3])])
def test_tokens_of_rank(method: str, expected: list[int]) -> None:
    assert tokens_of_rank(8, 2, 0, method).tolist() == expected
    every = torch.cat([tokens_of_rank(48, 4, rank, method) for rank in range(4)])
    assert every.sort().values.tolist() == list(range(48))


def test_the_ring_shares_the_work_evenly() -> None:
    seen = [sum(tokens_of_rank(64, 4, rank, "ring") + 1) for rank in range(4)]
    assert len({int(keys) for keys in seen}) == 1, "every rank's tokens see equally many keys"


def model_in_rank(method: str, name: str, documents: Tensor | None, compiled: bool) -> list[Tensor]:
    """Loss of this rank's tokens, and the gradients of the weights summed over the ranks."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model, tokens = model_and_tokens(name)
    apply_context_parallel(model, dist.group.WORLD, method)
    if compiled:
        for block in model.blocks:
            block.compile(backend="eager")
    mine = tokens_of_rank(32, ranks, rank, method)
    loss = model(tokens[:, :-1][:, mine], tokens[:, 1:][:, mine], positions=mine, documents_BT=documents)
    loss.backward()
    gradients = [p.grad for p in model.parameters()]
    for gradient in gradients:
        dist.all_reduce(gradient)
    return [loss.detach(), *gradients]


def model_and_tokens(name: str) -> tuple[GPT, Tensor]:
    model = GPT(CONFIGS[name])
    model.load_state_dict(random_weights(CONFIGS[name]))
    tokens = torch.randint(CONFIGS[name].vocab_size, (2, 33), generator=torch.Generator().manual_seed(5))
    return model, tokens


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_trains_on_shared_sequences(method: str, compiled: bool) -> None:
    name = "gpt2" if compiled else "llama"
    documents = Case(1, 1, 32, ((0, 9, 10, 25), (0, 16))).documents()
    model, tokens = model_and_tokens(name)
    loss = model(tokens[:, :-1], tokens[:, 1:], documents_BT=documents)
    loss.backward()
    results = in_ranks(model_in_rank, 2, method, name, documents, compiled)
    assert sum(float(result[0]) for result in results) == pytest.approx(loss.item(), rel=1e-6)
    largest = max(float(parameter.grad.abs().max()) for parameter in model.parameters())
    for ours, parameter in zip(results[0][1:], model.parameters(), strict=True):
        # Of some, such as a bias of the keys, the true gradient is zero: what is left of it is rounding.
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-5, atol=1e-6 * largest)


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention and lse written out, fp64."""
    groups = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(groups, 1), v.double().repeat_interleave(groups, 1)
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1)
    weights = (scores - lse[..., None]).exp().nan_to_num(0.0)
    return weights @ v, lse


SIGHTS = ["causal", "all", "documents", "causal documents"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_blocks_combine_to_the_whole(
    sight: str, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks of keys, told the lse over both, give the gradients of the whole; on a GPU: each kernel."""
    case = Case(4, 2, 50, ((0, 7, 20), (0, 45)), size=20)
    monkeypatch.setitem(block_attention._MASK_ELEMENTS, device, 700)
    q, k, v, grad = case.inputs(dtype, device)
    more_k, more_v = k.flip(2), v.flip(2)
    mask = torch.ones(50, 50, dtype=torch.bool, device=device)
    documents = None
    if "documents" in sight:
        numbers = case.documents().to(device)
        documents = numbers, numbers
        mask = (numbers[:, :, None] == numbers[:, None, :])[:, None]
    if "causal" in sight:
        mask = mask & torch.ones_like(mask).tril()
    blocks = [
        (k, v, Sight("causal" in sight, documents)),
        (more_k, more_v, Sight(False, documents and (documents[0], documents[1] + 1))),
    ]
    other = torch.ones_like(mask)
    if documents is not None:
        other = (documents[0][:, :, None] == documents[1][:, None, :] + 1)[:, None]
    leaves = [x.double().requires_grad_() for x in (q, k, v, more_k, more_v)]
    keys, values = torch.cat(leaves[1:4:2], 2), torch.cat(leaves[2:5:2], 2)
    expected, lse = dense(leaves[0], keys, values, torch.cat((mask, other), -1).expand(2, 4, -1, -1))
    expected.backward(grad.double())

    bound = 1e-5 if dtype == torch.float32 else 2e-2
    for index, (some_k, some_v, some_sight) in enumerate(blocks):
        out, block_lse = attend_block(q, some_k, some_v, some_sight)
        seen = (mask, other)[index].expand(2, 4, -1, -1)
        truth, true_lse = dense(q, some_k, some_v, seen)
        assert difference(out, truth) <= bound
        assert block_lse.dtype == torch.float32
        torch.testing.assert_close(block_lse.double(), true_lse, rtol=bound, atol=bound)
    rows = Rows(q, expected.detach().to(dtype), grad, lse.detach().float())
    parts = [attend_block_backward(rows, *block) for block in blocks]
    assert difference(parts[0][0].double() + parts[1][0].double(), leaves[0].grad) <= bound
    ours = [parts[0][1], parts[0][2], parts[1][1], parts[1][2]]
    for mine, leaf in zip(ours, leaves[1:], strict=True):
        assert mine.shape == leaf.shape and difference(mine, leaf.grad) <= bound


@pytest.mark.parametrize("kernel", ["flash", "efficient"])
def test_gpu_kernels_are_called_as_they_are_declared(kernel: str) -> None:
    """Without a GPU: torch's own shape functions of the CUDA kernels take our arguments."""
    forward = getattr(attention_kernels, f"_{kernel}")
    backward = getattr(attention_kernels, f"_{kernel}_backward")
    with FakeTensorMode():
        q = torch.empty(2, 8, 50, 16, dtype=torch.bfloat16, device="cuda")
        k = v = torch.empty(2, 2, 40, 16, dtype=torch.bfloat16, device="cuda")
        bias = None
        if kernel == "efficient":
            bias = torch.empty(2, 1, 50, 40 + -40 % BIAS_ALIGNMENT, dtype=q.dtype, device="cuda").narrow(-1, 0, 40)
        out, lse = forward(q, k, v, False, bias, 0.25)
        assert out.shape == q.shape and lse.shape == (2, 8, 50) and lse.dtype == torch.float32
        gradients = backward(Rows(q, out, out, lse), k, v, False, bias, 0.25)
        assert [x.shape for x in gradients] == [q.shape, k.shape, v.shape]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_one_gpu_attends_as_the_reference(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    documents = case.documents()
    theirs = with_gradients(causal_attention, *(x.double() for x in case.inputs(dtype)), documents)
    on_gpu = None if documents is None else documents.cuda()
    ours = with_gradients(ring_attention, *case.inputs(dtype, "cuda"), on_gpu)
    for mine, whole in zip(ours, theirs, strict=True):
        assert difference(mine.cpu(), whole) <= (1e-4 if dtype == torch.float32 else 2e-2)
