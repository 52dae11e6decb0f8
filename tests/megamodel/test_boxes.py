"""What a rank holds, as boxes of whole tensors: checked against what its memory really holds."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

from megamodel.parallel.shard import Holding, flat_boxes, is_first_copy, local_box, local_part
from tests.ranks import in_ranks


def numbered(shape) -> Tensor:
    """A tensor whose elements are their own places in it."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


SHAPES = st.lists(st.integers(1, 6), min_size=0, max_size=4).map(tuple)


@given(st.data(), SHAPES)
@settings(max_examples=300, deadline=None)
def test_fragments_of_a_flat_tensor_are_boxes_that_tile_it(data, shape):
    """However a flat buffer is cut into fragments, their pieces hold each element once, under its own place."""
    whole = numbered(shape)
    cuts = sorted(data.draw(st.lists(st.integers(0, whole.numel()), max_size=5)))
    count = torch.zeros(shape)
    for start, stop in zip([0, *cuts], [*cuts, whole.numel()], strict=True):
        holding = Holding.of_fragment(shape, start, whole.view(-1)[start:stop])
        assert holding.shape == shape and holding.written_by == "this"
        assert len(holding.pieces) <= max(1, 2 * len(shape) - 1)
        for box, piece in holding.pieces:
            assert torch.equal(piece, whole[box.slices])
            count[box.slices] += 1
    assert torch.equal(count, torch.ones(shape))


def test_a_fragment_is_the_live_memory():
    flat = torch.zeros(7)
    for _, piece in Holding.of_fragment((4, 3), 2, flat).pieces:
        piece.fill_(1.0)
    assert torch.equal(flat, torch.ones(7))


@pytest.mark.parametrize(
    ("shape", "start", "stop", "boxes"),
    [
        ((10,), 3, 7, [((3,), (4,))]),
        ((4, 6), 7, 11, [((1, 1), (1, 4))]),  # within one row
        ((4, 6), 6, 18, [((1, 0), (2, 6))]),  # whole rows
        ((4, 6), 4, 20, [((0, 4), (1, 2)), ((1, 0), (2, 6)), ((3, 0), (1, 2))]),
        ((4, 6), 4, 8, [((0, 4), (1, 2)), ((1, 0), (1, 2))]),  # two rows, neither whole
        (
            (2, 3, 4), 2, 17,
            [((0, 0, 2), (1, 1, 2)), ((0, 1, 0), (1, 2, 4)), ((1, 0, 0), (1, 1, 4)), ((1, 1, 0), (1, 1, 1))],
        ),
        ((), 0, 1, [((), ())]),
        ((4, 6), 5, 5, []),
    ],
)  # fmt: skip
def test_a_range_takes_few_boxes(shape, start, stop, boxes):
    assert [(box.offset, box.shape) for box, _, _ in flat_boxes(shape, start, stop)] == boxes


def _check(tensor: DTensor, whole: Tensor) -> None:
    """The box is where the rank's memory says it is, and the ranks that speak for their boxes tile the tensor."""
    box, part = local_box(tensor), local_part(tensor)
    assert tuple(part.shape) == box.shape, (tensor.placements, part.shape, box)
    if box.size:
        assert torch.equal(part, whole[box.slices]), (tensor.placements, box)
    everyone: list = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, box.slices if is_first_copy(tensor) and box.size else None)
    count = torch.zeros(whole.shape)
    for slices in everyone:
        if slices is not None:
            count[slices] += 1
    assert torch.equal(count, torch.ones(whole.shape)), (tensor.placements, everyone)


def _plain_placements() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    for shape in ((8, 6), (5, 7), (3, 3), (1, 5), (9,), (2,), (5, 3, 2)):
        whole = numbered(shape)
        options = [Replicate(), *(Shard(dim) for dim in range(len(shape)))]
        for first in options:
            for second in options:
                _check(distribute_tensor(whole, mesh, [first, second]), whole)


def test_boxes_of_sharded_and_replicated_tensors_on_a_mesh_of_two_axes():
    in_ranks(_plain_placements, 4)


class _Two(nn.Module):
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(columns, rows), nn.Linear(rows, columns)
        for parameter in self.parameters():
            parameter.data = numbered(parameter.shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def _fsdp_over_tensor_parallel() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    strided = 0
    for rows, columns in ((8, 6), (6, 5), (2, 3), (4, 1), (10, 7)):
        whole = {name: p.detach().clone() for name, p in _Two(rows, columns).named_parameters()}
        model = _Two(rows, columns)
        parallelize_module(model, mesh["tp"], {"first": ColwiseParallel(), "second": RowwiseParallel()})
        fully_shard(model, mesh=mesh["dp"])
        for name, parameter in model.named_parameters():
            strided += any(isinstance(placement, _StridedShard) for placement in parameter.placements)
            _check(parameter.data, whole[name])
    assert strided, "nothing was cut twice along one dimension: this shows nothing"


def test_boxes_of_what_fsdp_cuts_after_tensor_parallelism():
    in_ranks(_fsdp_over_tensor_parallel, 4)


def _hsdp() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    for rows, columns in ((8, 6), (5, 3), (1, 4)):
        whole = {name: p.detach().clone() for name, p in _Two(rows, columns).named_parameters()}
        model = _Two(rows, columns)
        fully_shard(model, mesh=mesh)
        for name, parameter in model.named_parameters():
            _check(parameter.data, whole[name])


def test_boxes_of_hsdp():
    in_ranks(_hsdp, 4)
