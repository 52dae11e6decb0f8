"""Promise 3 on one machine: what is committed is whole, what is damaged is never believed."""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from megamodel.checkpoint import (
    CheckpointWriter,
    checkpoint_name,
    find_newest_good,
    list_checkpoints,
    load_into,
    load_weights,
    remove_leftovers,
    verify_checkpoint,
)
from megamodel.checkpoint.manifest import Chunk, FileEntry, Manifest, TensorEntry
from megamodel.checkpoint.tensor_file import write_tensor_file
from megamodel.checkpoint.verify import faulty, segments, share
from megamodel.errors import CheckpointError, CheckpointUnreadable
from megamodel.parallel.shard import Box, Holding, flat_boxes


def holding(tensors: dict[str, torch.Tensor]) -> dict[str, Holding]:
    return {name: Holding.of(tensor) for name, tensor in tensors.items()}


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def writer_for(
    folder: Path, tensors: dict[str, torch.Tensor], keep=10, permanent=None, saved=None, rank=0, world_size=1
) -> CheckpointWriter:
    return CheckpointWriter(
        folder,
        rank=rank,
        world_size=world_size,
        attempt="a",
        keep=keep,
        permanent_every_steps=permanent,
        optimizer="adamw",
        model={},
        data_order={},
        shapes=shapes(tensors),
        on_saved=(saved if saved is not None else []).append,
    )


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"param/a": (33, 7), "param/b": (5,), "exp_avg/a": (33, 7), "exp_avg/b": (5,), "param/scalar": ()}
    return {name: torch.randn(shape, generator=generator) for name, shape in sizes.items()}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    writer = writer_for(tmp_path, tensors())
    writer.save(3, holding(tensors()))
    writer.wait()
    return tmp_path / checkpoint_name(3)


def test_what_was_saved_is_loaded_and_any_reader_opens_it(checkpoint):
    assert verify_checkpoint(checkpoint) == []
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors().items()}
    assert load_into(checkpoint, holding(targets), shapes(targets)).step == 3
    theirs = load_file(checkpoint / "rank_00000.safetensors")
    for name, tensor in tensors().items():
        assert torch.equal(targets[name], tensor)
        assert torch.equal(theirs[name], tensor)
    assert load_weights(checkpoint).keys() == {"a", "b", "scalar"}


def test_saving_takes_a_copy(tmp_path):
    live = tensors()
    writer = writer_for(tmp_path, live)
    writer.save(1, holding(live))
    for tensor in live.values():
        tensor.fill_(9.0)
    writer.wait()
    assert torch.equal(load_weights(tmp_path / checkpoint_name(1))["a"], tensors()["param/a"])


def test_every_flipped_bit_is_seen(checkpoint):
    chance = random.Random(0)
    for path in checkpoint.iterdir():
        good = path.read_bytes()
        for place in {0, len(good) - 1, *(chance.randrange(len(good)) for _ in range(60))}:
            bad = bytearray(good)
            bad[place] ^= 1 << chance.randrange(8)
            path.write_bytes(bad)
            faults = verify_checkpoint(checkpoint)
            # A flip in the manifest's white space or in the case of a JSON escape changes nothing it says.
            assert faults or (path.name == "manifest.json" and good[place : place + 1].isspace()), (path.name, place)
            assert all(str(checkpoint) in fault for fault in faults)
        path.write_bytes(good)
    assert verify_checkpoint(checkpoint) == []


def test_truncated_missing_and_foreign_files_are_named(checkpoint):
    path = checkpoint / "rank_00000.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert "was truncated" in verify_checkpoint(checkpoint)[0]
    path.unlink()
    assert verify_checkpoint(checkpoint) == [f"{path}: missing"]
    path.write_bytes(content)
    (checkpoint / "manifest.json").write_text("{}")
    assert "damaged" in verify_checkpoint(checkpoint)[0]
    (checkpoint / "manifest.json").unlink()
    assert "no manifest.json" in verify_checkpoint(checkpoint)[0]


def test_a_newer_format_is_not_taken_for_damage(checkpoint):
    """It must not be quarantined: it is good, for the version that wrote it."""
    path = checkpoint / "manifest.json"
    body = json.loads(path.read_text())["manifest"] | {"format_version": 3, "unheard_of": 1}
    digest = hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=32).hexdigest()
    path.write_text(json.dumps({"digest": digest, "manifest": body}))
    with pytest.raises(CheckpointUnreadable, match="format version 3"):
        find_newest_good(checkpoint.parent)


def test_the_newest_good_one_is_found(tmp_path):
    writer = writer_for(tmp_path, tensors())
    for step in (1, 2, 3):
        writer.save(step, holding(tensors(step)))
    writer.wait()
    (tmp_path / checkpoint_name(3) / "rank_00000.safetensors").unlink()
    good, bad = find_newest_good(tmp_path)
    assert good == tmp_path / checkpoint_name(2)
    assert [path for path, _ in bad] == [tmp_path / checkpoint_name(3)]


def test_old_ones_go_and_permanent_ones_stay(tmp_path):
    saved = []
    writer = writer_for(tmp_path, tensors(), keep=2, permanent=4, saved=saved)
    for step in range(1, 10):
        writer.save(step, holding(tensors()))
    writer.wait()
    assert [step for step, _ in list_checkpoints(tmp_path)] == [4, 8, 9]
    assert [s.step for s in saved] == list(range(1, 10))


def manifest_of(shape, boxes, **settings) -> Manifest:
    chunks = [Chunk(file="f", key="t", offset=offset, shape=size) for offset, size in boxes]
    entry = TensorEntry(shape=shape, dtype="F32", chunks=chunks)
    files = {"f": FileEntry(size=1, segment=1, digests=("0",))}
    return Manifest(step=1, optimizer="adamw", model={}, data_order={}, tensors={"t": entry}, files=files, **settings)


@pytest.mark.parametrize(
    ("chunks", "problem"),
    [
        ([((0, 0), (2, 4))], "8 of 16 elements"),
        ([((0, 0), (3, 4)), ((2, 0), (1, 4)), ((3, 0), (0, 4))], "overlap"),
        ([((0, 0), (2, 4)), ((3, 0), (2, 4))], "outside"),
        ([((0,), (4,)), ((0, 0), (4, 4))], "has not the 2 dimensions"),
    ],
)
def test_parts_that_do_not_make_a_whole_are_refused(chunks, problem):
    assert problem in manifest_of((4, 4), chunks).coverage_problems()[0]


def test_a_chunk_in_a_file_that_is_not_the_checkpoints_is_refused():
    manifest = manifest_of((4,), [((0,), (4,))])
    assert manifest.coverage_problems() == []
    chunk = manifest.tensors["t"].chunks[0].model_copy(update={"file": "../../elsewhere"})
    entry = manifest.tensors["t"].model_copy(update={"chunks": (chunk,)})
    assert "'../../elsewhere'" in manifest.model_copy(update={"tensors": {"t": entry}}).coverage_problems()[0]


@st.composite
def cut_tensors(draw):
    """A tensor cut into boxes along random planes, most often with one box then moved, grown, dropped or doubled."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    boxes = [Box((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 6)) if shape else 0):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        dim = draw(st.integers(0, len(shape) - 1))
        place = draw(st.integers(0, box.shape[dim]))
        low, high, start = list(box.shape), list(box.shape), list(box.offset)
        low[dim], high[dim], start[dim] = place, box.shape[dim] - place, box.offset[dim] + place
        boxes += [Box(box.offset, tuple(low)), Box(tuple(start), tuple(high))]
    harm = draw(st.sampled_from(["none", "drop", "double", "move", "grow"]))
    index = draw(st.integers(0, len(boxes) - 1))
    if harm == "drop":
        del boxes[index]
    elif harm == "double":
        boxes.append(boxes[index])
    elif harm != "none" and shape:
        dim, box = draw(st.integers(0, len(shape) - 1)), boxes[index]
        what = box.offset if harm == "move" else box.shape
        changed = tuple(max(0, n + (draw(st.sampled_from([-1, 1])) if i == dim else 0)) for i, n in enumerate(what))
        boxes[index] = Box(changed, box.shape) if harm == "move" else Box(box.offset, changed)
    return shape, boxes


def _tiles(shape, boxes) -> bool:
    """By counting every element, in a space large enough for boxes that stick out."""
    count = torch.zeros([n + 8 for n in shape], dtype=torch.int64)
    for box in boxes:
        count[box.slices] += 1
    whole = torch.zeros_like(count)
    whole[tuple(slice(n) for n in shape)] = 1
    return torch.equal(count, whole)


@given(cut_tensors())
@settings(max_examples=500, deadline=None)
def test_coverage_is_exact(case):
    shape, boxes = case
    problems = manifest_of(shape, [(box.offset, box.shape) for box in boxes]).coverage_problems()
    assert (not problems) == _tiles(shape, boxes), problems


def test_coverage_of_a_thousand_ranks_is_quick():
    """ZeRO-3 over 1,024 ranks cuts a matrix into up to three boxes a rank; so does tensor parallelism by columns."""
    shape, ranks = (8192, 28671), 1024
    cuts = [rank * shape[0] * shape[1] // ranks for rank in range(ranks + 1)]
    rows = [b for start, stop in itertools.pairwise(cuts) for b, _, _ in flat_boxes(shape, start, stop)]
    columns = [Box((0, column), (8192, 1)) for column in range(28671)]
    for boxes in (rows, columns):
        manifest = manifest_of(shape, [(box.offset, box.shape) for box in boxes])
        started = time.process_time()
        assert manifest.coverage_problems() == []
        seconds = time.process_time() - started
        assert seconds < 1e-4 * len(boxes), f"{len(boxes)} chunks took {seconds:.2f} s"
        assert (
            "of 234872832 elements"
            in manifest_of(shape, [(b.offset, b.shape) for b in boxes[1:]]).coverage_problems()[0]
        )


def test_a_checkpoint_of_format_version_1_is_still_read():
    """Written by the version before this one, on two ranks: one chunk a tensor without a key, one digest a file."""
    checkpoint = Path(__file__).parent / "checkpoint_version_1" / checkpoint_name(3)
    assert json.loads((checkpoint / "manifest.json").read_text())["manifest"]["format_version"] == 1
    assert verify_checkpoint(checkpoint) == []
    sizes = {"param/a": (4, 3), "param/b": (5,)}
    sizes |= {f"{moment}/{name}": sizes[f"param/{name}"] for moment in ("exp_avg", "exp_avg_sq") for name in "ab"}
    targets = {name: torch.zeros(size) for name, size in sizes.items()}
    manifest = load_into(checkpoint, holding(targets), sizes)
    assert (manifest.step, manifest.optimizer_updates, manifest.data_order) == (3, 3, {"seed": 7})
    assert torch.equal(targets["param/a"], torch.arange(12.0).view(4, 3))
    assert torch.equal(targets["exp_avg/b"], torch.arange(5.0) / 3)
    assert torch.equal(targets["exp_avg_sq/a"], torch.arange(12.0).view(4, 3) / 11)
    assert torch.equal(load_weights(checkpoint)["b"], torch.arange(5.0) + 100)


def test_damage_of_a_version_1_checkpoint_is_seen(tmp_path):
    checkpoint = tmp_path / checkpoint_name(3)
    shutil.copytree(Path(__file__).parent / "checkpoint_version_1" / checkpoint_name(3), checkpoint)
    path = checkpoint / "rank_00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert verify_checkpoint(checkpoint) == [
        f"{path}: content differs from the digest taken while it was written: at least one bit has changed"
    ]


@given(st.integers(1, 400), st.integers(1, 7), st.lists(st.integers(0, 40), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_segments_hold_every_byte_once_whoever_reads_them(segment, readers, lengths):
    with tempfile.TemporaryDirectory() as folder:
        live = {f"t{n}": torch.arange(float(length)) for n, length in enumerate(lengths)}
        files = {}
        for name in ("one", "two"):
            files[name] = write_tensor_file(Path(folder) / name, live, segment)
        everything = segments(Path(folder), files)
        assert [s for reader in range(readers) for s in share(everything, reader, readers)] == everything
        for name, entry in files.items():
            content, parts = (Path(folder) / name).read_bytes(), [s for s in everything if s.path.name == name]
            assert entry.size == len(content) == sum(s.length for s in parts)
            for part in parts:
                stretch = content[part.start : part.start + part.length]
                assert part.digest == hashlib.blake2b(stretch, digest_size=32).hexdigest()
        assert faulty(everything) == []


def test_another_model_is_refused_before_anything_changes(checkpoint):
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors().items()}
    targets["param/b"] = torch.zeros(6)
    with pytest.raises(CheckpointError, match=r"param/b is \(5,\), the model wants \(6,\)"):
        load_into(checkpoint, holding(targets), shapes(targets))
    assert not any(tensor.any() for tensor in targets.values())
    del targets["param/b"]
    with pytest.raises(CheckpointError, match="param/b is not in the model"):
        load_into(checkpoint, holding(targets), shapes(targets))


def _save_for_ever(folder: str) -> None:
    live = {f"param/{n}": torch.full((50_000,), float(n)) for n in range(8)}
    writer = writer_for(Path(folder), live, keep=3)
    step = len(list_checkpoints(Path(folder))) + int(time.time() * 1000) % 10**8
    while True:
        step += 1
        writer.save(step, holding(live))


def test_a_kill_at_any_moment_of_saving_leaves_only_whole_checkpoints(tmp_path):
    chance = random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["megamodel.checkpoint"])
    for _ in range(12):
        process = context.Process(target=_save_for_ever, args=(str(tmp_path),))
        process.start()
        known, deadline = list_checkpoints(tmp_path), time.monotonic() + 60
        while list_checkpoints(tmp_path) == known and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for _, path in list_checkpoints(tmp_path):
            assert verify_checkpoint(path) == []
    assert list_checkpoints(tmp_path)
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for _, path in list_checkpoints(tmp_path)}


def _killed_at(operation: int, folder: str) -> None:
    """Save step 2, which replaces step 1, and die by SIGKILL just before a file operation of it."""
    live = {f"param/{n}": torch.full((50,), float(n)) for n in range(3)}
    writer, left = writer_for(Path(folder), live, keep=1), operation

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event == "open" or event.startswith(("os.", "shutil.")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    writer.save(1, holding(live))
    writer.wait()
    sys.addaudithook(count)
    writer.save(2, holding(live))
    writer.wait()
    os._exit(0)


def test_killed_before_each_file_operation_of_a_save(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["megamodel.checkpoint"])
    left_behind = set()
    for operation in itertools.count(1):
        folder = tmp_path / str(operation)
        process = context.Process(target=_killed_at, args=(operation, str(folder)))
        process.start()
        process.join()
        committed = [step for step, path in list_checkpoints(folder) if verify_checkpoint(path) == []]
        assert committed == [step for step, _ in list_checkpoints(folder)] and committed in ([1], [1, 2], [2]), (
            operation
        )
        left_behind.add(tuple(committed))
        remove_leftovers(folder)
        assert {path.name for path in folder.iterdir()} == {path.name for _, path in list_checkpoints(folder)}
        if process.exitcode == 0:
            break
    assert operation > 10 and left_behind == {(1,), (1, 2), (2,)}


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this user may not mount a file system: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(small_disk):
    fits = {"param/a": torch.ones(300_000)}
    writer = writer_for(small_disk, fits)
    writer.save(1, holding(fits))
    writer.save(2, holding(fits))
    with pytest.raises(CheckpointError, match=r"No space left on device.*are free there"):
        writer.wait()
    assert [path.name for path in small_disk.iterdir()] == [checkpoint_name(1)]
    assert verify_checkpoint(small_disk / checkpoint_name(1)) == []


def test_a_rank_that_cannot_write_does_not_let_the_first_one_wait(tmp_path):
    live = {"param/a": torch.ones(3), "param/b": torch.ones(2).to(torch.complex64)}  # a type no checkpoint holds
    first, second = (writer_for(tmp_path, live, rank=rank, world_size=2) for rank in (0, 1))
    first.save(1, holding(live))
    second.save(1, holding(live))
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="rank 1 could not save a checkpoint"):
        second.wait()
    with pytest.raises(CheckpointError, match=r"rank 0 could not save a checkpoint: rank 1: .*complex64"):
        first.wait()
    assert time.monotonic() - started < 60
    assert list(tmp_path.iterdir()) == []


def test_pieces_of_flat_fragments_make_a_checkpoint_that_any_cut_reads(tmp_path):
    """Three ranks cut the flat parameters as ZeRO does; two read them cut otherwise, one reads them whole."""
    whole = {"param/a": torch.randn(9, 5), "param/b": torch.randn(7), "param/c": torch.randn(3, 2, 4)}
    writers = [writer_for(tmp_path, whole, rank=rank, world_size=3) for rank in range(3)]
    for rank, writer in enumerate(writers):
        writer.save(1, {name: fragment(tensor, rank, 3) for name, tensor in whole.items()})
    for writer in writers:
        writer.wait()
    path = tmp_path / checkpoint_name(1)
    assert verify_checkpoint(path) == []
    for parts in (1, 2):
        read = {name: torch.zeros_like(tensor) for name, tensor in whole.items()}
        for part in range(parts):
            load_into(path, {name: fragment(tensor, part, parts) for name, tensor in read.items()}, shapes(whole))
        assert all(torch.equal(read[name], tensor) for name, tensor in whole.items())


def fragment(tensor: torch.Tensor, part: int, parts: int) -> Holding:
    start, stop = (tensor.numel() * n // parts for n in (part, part + 1))
    return Holding.of_fragment(tuple(tensor.shape), start, tensor.view(-1)[start:stop])
