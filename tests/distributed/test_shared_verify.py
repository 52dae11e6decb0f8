"""A checkpoint verified by all ranks together: every byte is somebody's, and all come to the same verdict."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from launcher.cluster.ranks import Ranks
from launcher.errors import UserError
from launcher.train.examine import shared_faults
from megamodel.checkpoint import checkpoint_name, verify_checkpoint
from megamodel.checkpoint.manifest import Chunk, Manifest, TensorEntry
from megamodel.checkpoint.tensor_file import write_tensor_file
from tests.ranks import in_ranks

SEGMENT = 256


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """Two files, of which the second is many segments long."""
    path = tmp_path / "checkpoints" / checkpoint_name(1)
    path.mkdir(parents=True)
    whole = {"param/a": torch.randn(20), "param/b": torch.randn(3000)}
    files, tensors = {}, {}
    for rank, (name, tensor) in enumerate(whole.items()):
        file, shape = f"rank_{rank:05d}.safetensors", tuple(tensor.shape)
        files[file] = write_tensor_file(path / file, {name: tensor}, SEGMENT)
        tensors[name] = TensorEntry(
            shape=shape, dtype="F32", chunks=[Chunk(file=file, key=name, offset=(0,), shape=shape)]
        )
    manifest = Manifest(step=1, optimizer="none", model={}, data_order={}, tensors=tensors, files=files)
    (path / "manifest.json").write_text(manifest.to_json())
    assert verify_checkpoint(path) == []
    return path


def _here() -> Ranks:
    import torch.distributed as dist

    return Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))


def _flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def _verdicts_on_each_segment(folder: str) -> list[list[str]]:
    """What this rank hears when one bit of one segment is flipped, for each segment in turn."""
    ranks, checkpoint, heard = _here(), Path(folder), []
    for path in sorted(checkpoint.glob("*.safetensors")):
        for place in range(0, path.stat().st_size, SEGMENT):
            ranks.on_first(lambda path=path, place=place: _flip(path, place))
            heard.append(shared_faults(checkpoint, ranks, seconds=0.0))
            ranks.on_first(lambda path=path, place=place: _flip(path, place))
    heard.append(shared_faults(checkpoint, ranks, seconds=0.0))
    return heard


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_flipped_bit_in_any_segment_is_heard_by_every_rank(checkpoint, ranks):
    first, *others = in_ranks(_verdicts_on_each_segment, ranks, str(checkpoint))
    assert all(verdict == first for verdict in others)
    *damaged, whole = first
    assert len(damaged) > 48, "too few segments to need several rounds"
    assert all(len(faults) == 1 and "at least one bit has changed" in faults[0] for faults in damaged)
    assert whole == []


def _bytes_read_here(folder: str) -> int:
    before = _read_calls()
    assert shared_faults(Path(folder), _here(), seconds=60.0) == []
    return _read_calls() - before


def _read_calls() -> int:
    """Bytes this process has read, from whatever file."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def test_each_rank_reads_its_share_of_one_large_file(tmp_path):
    path = tmp_path / checkpoint_name(1)
    path.mkdir()
    tensor = torch.zeros(2**22)
    entry = write_tensor_file(path / "f", {"param/a": tensor}, 2**20)
    chunk = Chunk(file="f", key="param/a", offset=(0,), shape=(2**22,))
    tensors = {"param/a": TensorEntry(shape=(2**22,), dtype="F32", chunks=[chunk])}
    manifest = Manifest(step=1, optimizer="none", model={}, data_order={}, tensors=tensors, files={"f": entry})
    (path / "manifest.json").write_text(manifest.to_json())
    read = in_ranks(_bytes_read_here, 4, str(path))
    assert max(read) < 1.4 * entry.size / 4, read
    assert sum(read) >= entry.size


def _refusal(folder: str, private: str | None) -> str:
    """The sentence that every rank ends with; rank 1 stands in a folder of its own where `private` is given."""
    ranks = _here()
    os.chdir(private if private and ranks.rank == 1 else Path(folder).parent)
    try:
        return str(shared_faults(Path(Path(folder).name), ranks, seconds=60.0))
    except UserError as error:
        return str(error)


def test_what_only_another_rank_does_not_see_is_no_damage(checkpoint, tmp_path):
    private = tmp_path / "private"
    shutil.copytree(checkpoint.parent, private)
    (private / checkpoint.name / "rank_00001.safetensors").unlink()
    sentences = in_ranks(_refusal, 2, str(checkpoint), str(private))
    assert sentences[0] == sentences[1]
    assert "rank 1 finds, where rank 0 finds nothing wrong" in sentences[0] and ": missing" in sentences[0]
    assert "must see the same run_dir" in sentences[0]


def test_two_ranks_that_see_damage_agree_on_it(checkpoint):
    (checkpoint / "rank_00001.safetensors").unlink()
    sentences = in_ranks(_refusal, 3, str(checkpoint), None)
    assert sentences == [f"['{checkpoint.name}/rank_00001.safetensors: missing']"] * 3


def _as_nobody(folder: str) -> str:
    import torch.distributed as dist

    if dist.get_rank() == 1:
        os.seteuid(65534)
    try:
        return _refusal(folder, None)
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make one rank another user")
def test_a_rank_that_may_not_read_stops_all_with_a_sentence(checkpoint):
    (checkpoint / "rank_00001.safetensors").chmod(0o600)
    for folder in (checkpoint, *checkpoint.parents):
        if folder.stat().st_mode & 0o011 != 0o011:
            folder.chmod(folder.stat().st_mode | 0o011)
    sentences = in_ranks(_as_nobody, 2, str(checkpoint))
    assert sentences[0] == sentences[1]
    assert "rank 1: " in sentences[0] and "Permission denied" in sentences[0]
