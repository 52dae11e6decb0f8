"""Promise 3 on one machine: what is committed is whole, what is damaged is never believed."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
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
from megamodel.checkpoint.manifest import Chunk, Manifest, TensorEntry
from megamodel.errors import CheckpointError, CheckpointUnreadable
from megamodel.parallel.shard import Holding


def holding(tensors: dict[str, torch.Tensor]) -> dict[str, Holding]:
    return {name: Holding.of(tensor) for name, tensor in tensors.items()}


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def writer_for(folder: Path, tensors: dict[str, torch.Tensor], keep=10, permanent=None, saved=None) -> CheckpointWriter:
    return CheckpointWriter(
        folder,
        rank=0,
        world_size=1,
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


@pytest.mark.parametrize(
    ("chunks", "problem"),
    [
        ([((0, 0), (2, 4))], "8 of 16 elements"),
        ([((0, 0), (3, 4)), ((2, 0), (1, 4)), ((3, 0), (0, 4))], "overlap"),
        ([((0, 0), (2, 4)), ((3, 0), (2, 4))], "outside"),
    ],
)
def test_parts_that_do_not_make_a_whole_are_refused(chunks, problem):
    entry = TensorEntry(
        shape=(4, 4),
        dtype="F32",
        chunks=[Chunk(file="f", key="t", offset=offset, shape=shape) for offset, shape in chunks],
    )
    manifest = Manifest(step=1, optimizer="adamw", model={}, data_order={}, tensors={"t": entry}, files={})
    assert problem in manifest.coverage_problems()[0]


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
