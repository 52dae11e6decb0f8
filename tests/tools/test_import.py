"""Checkpoints of plain DeepSpeed and of torch.distributed.checkpoint go on here, and ours go on in plain DeepSpeed.

The other side is `foreign_trainers.py`, a script that imports nothing of megamodel. It runs twice for all tests.
"""

import contextlib
import fcntl
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

from launcher.cli.main import main
from launcher.errors import CheckFailed, UserError
from launcher.train.run_folder import load_config
from megamodel.checkpoint import list_checkpoints, read_manifest, read_tensors
from megamodel.config import ModelConfig
from megamodel.errors import CheckpointError, ModelError
from megamodel.families import family_of
from megamodel.gpt import GPT
from tests.conftest import GPT2, LLAMA, ROOT, events_of, metrics_of
from tests.megamodel.models import CONFIGS, random_weights
from tests.ranks import train_in_ranks
from tools.convert import import_run as importing
from tools.convert import universal_write
from tools.convert.export_deepspeed import export_deepspeed
from tools.convert.foreign_names import recognise
from tools.convert.import_run import Imported, import_run

MODELS = {"llama": LLAMA | {"tie_word_embeddings": True}, "llama-untied": LLAMA, "gpt2": GPT2}
ADAMW = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
"""Of `foreign_trainers.py`, too."""
STEPS = 3

Jobs = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what other software writes, and the tokens that both sides train on; one for all test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "foreign"
    folder.mkdir(exist_ok=True)
    with once(folder / "batches.pt") as missing:
        if missing:
            generator = torch.Generator().manual_seed(1)
            torch.save([torch.randint(320, (6, 32), generator=generator) for _ in range(8)], folder / "batches.pt")
    return folder


@contextlib.contextmanager
def once(result: Path) -> Iterator[bool]:
    """Is the file still to be made? Other test processes wait meanwhile."""
    with result.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not result.exists()


def run_foreign(foreign: Path, name: str, jobs: Jobs) -> Jobs:
    """The answers to the jobs by their names, from three ranks of a process of its own."""
    file = foreign / f"{name}.json"
    command = [sys.executable, str(ROOT / "tests" / "tools" / "foreign_trainers.py"), str(file)]
    answers = Path(f"{file}.answers")
    with once(answers) as missing:
        if missing:
            file.write_text(json.dumps([{"batches": str(foreign / "batches.pt"), **job} for job in jobs.values()]))
            done = subprocess.run(command, capture_output=True, text=True, cwd=foreign, timeout=300)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return dict(zip(jobs, json.loads(answers.read_text()), strict=True))


@pytest.fixture(scope="session")
def trained_elsewhere(foreign: Path) -> Jobs:
    """Every checkpoint of other software, by name, with the two losses that it would see next."""
    names: Jobs = {
        "llama zero1": {"model": "llama", "stage": 1, "zero": {"round_robin_gradients": True}},
        "llama zero2": {"model": "llama", "stage": 2, "save_later": str(foreign / "later")},
        "llama-untied zero3": {"model": "llama-untied", "stage": 3},
        "gpt2 zero2": {"model": "gpt2", "stage": 2, "two_groups": True, "universal": str(foreign / "universal2")},
        "gpt2 zero3": {"model": "gpt2", "stage": 3, "two_groups": True, "universal": str(foreign / "universal3")},
        "llama-untied bf16 zero1": {"model": "llama-untied", "stage": 1, "bf16": True},
        "llama bf16 zero3": {"model": "llama", "stage": 3, "bf16": True},
    }
    for name, job in names.items():
        job |= {"steps": STEPS, "save": str(foreign / name)}
        if job.get("bf16"):
            job |= {"dump": str(foreign / f"{name}.dump")}
    names["llama dcp"] = {"model": "llama", "steps": STEPS, "dcp": str(foreign / "llama dcp")}
    names["gpt2 dcp"] = {"model": "gpt2", "steps": STEPS, "flat": True, "dcp": str(foreign / "gpt2 dcp")}
    return run_foreign(foreign, "trained", names)


@pytest.fixture(scope="session")
def config_of(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in MODELS to the configuration of a run of it."""
    folder = tmp_path_factory.mktemp("configs")

    def write(name: str) -> Path:
        path = folder / f"{name}.yaml"
        config = {
            "run_dir": str(folder / "unused"),
            "model": MODELS[name],
            "data": {"tokenizer": str(tiny_data / "tokenizer"), "sources": [{"path": str(tiny_data / "train")}]},
            "train": {"steps": 20, "global_batch_size": 4, "micro_batch_size": 4, "seq_len": 32},
            "optimizer": {"lr": 1e-3},
            "engine": {"name": "single", "device": "cpu"},
            "monitor": {"tensorboard": False},
        }
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def checkpoint_of(run: Path) -> Path:
    return list_checkpoints(run / "checkpoints")[-1][1]


def next_losses(run: Path, foreign: Path, two_groups: bool = False) -> list[float]:
    """Our model and torch's AdamW from the run's checkpoint, on the two batches that follow its step."""
    checkpoint = checkpoint_of(run)
    manifest, tensors = read_manifest(checkpoint), dict(read_tensors(checkpoint))
    model = GPT(load_config(run).model)
    model.load_state_dict({name: tensors[f"param/{name}"] for name, _ in model.named_parameters()})
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2 or not two_groups]},
        {"params": [p for p in model.parameters() if p.dim() < 2 and two_groups], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], **ADAMW)
    for name, parameter in model.named_parameters():
        moments = {kind: tensors[f"{kind}/{name}"] for kind in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(float(manifest.optimizer_updates)), **moments}
    batches, losses = torch.load(foreign / "batches.pt"), []
    for number in range(manifest.step, manifest.step + 2):
        tokens = batches[number % len(batches)]
        loss = model(tokens[:, :-1], tokens[:, 1:]) / tokens[:, 1:].numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


SOURCES = {
    "llama zero1": ("llama", "llama zero1"),
    "llama zero2": ("llama", "llama zero2"),
    "llama-untied zero3": ("llama-untied", "llama-untied zero3"),
    "gpt2 zero2": ("gpt2", "gpt2 zero2"),
    "gpt2 zero3": ("gpt2", "gpt2 zero3"),
    "gpt2 universal of zero2": ("gpt2", "universal2/step3_universal"),
    "gpt2 universal of zero3": ("gpt2", "universal3"),
    "llama dcp": ("llama", "llama dcp"),
    "gpt2 dcp": ("gpt2", "gpt2 dcp"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_next_losses_are_those_of_the_software_that_trained(
    name: str, trained_elsewhere: Jobs, foreign: Path, config_of: Callable[[str], Path], tmp_path: Path
) -> None:
    model, folder = SOURCES[name]
    if "universal" in folder:  # DeepSpeed's converter writes its pointer beside the folder
        (foreign / folder.split("/")[0] / "latest_universal").write_text("step3_universal")
    done = import_run(foreign / folder, tmp_path / "run", config_of(model))
    assert (done.step, done.optimizer_updates) == (STEPS, STEPS)
    key = name.replace("universal of ", "")
    expected = trained_elsewhere[key]["losses"]
    assert next_losses(tmp_path / "run", foreign, "gpt2 zero" in key) == pytest.approx(expected, rel=2e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"], "nothing else is left"


@pytest.mark.parametrize(
    ("name", "model"), [("llama-untied bf16 zero1", "llama-untied"), ("llama bf16 zero3", "llama")]
)
def test_of_bf16_training_the_fp32_masters_are_taken(
    name: str, model: str, trained_elsewhere: Jobs, foreign: Path, config_of: Callable[[str], Path], tmp_path: Path
) -> None:
    import_run(foreign / name, tmp_path / "run", config_of(model))
    tensors = dict(read_tensors(checkpoint_of(tmp_path / "run")))
    theirs = torch.load(foreign / f"{name}.dump")
    assert len(tensors) == len(theirs)
    assert all(torch.equal(tensors[key.replace("/model.", "/")], value) for key, value in theirs.items())
    weight = tensors["param/layers.0.mlp.up_proj.weight"]
    assert not torch.equal(weight, weight.bfloat16().float()), "more than bf16 can hold"


def test_training_goes_on(
    trained_elsewhere: Jobs, foreign: Path, config_of: Callable[[str], Path], tmp_path: Path, capsys, monkeypatch
) -> None:
    """From the command line; a second configuration with another data order is refused."""
    run = tmp_path / "run"
    command = [
        "megamodel",
        "import",
        str(foreign / "gpt2 zero3"),
        str(run),
        "--config",
        str(config_of("gpt2")),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 37_760
    train_in_ranks(config_of("gpt2"), f"run_dir={run}", "train.stop_at_step=5")
    assert [line["step"] for line in metrics_of(run)] == [4, 5]
    assert events_of(run, "imported")[0]["step"] == events_of(run, "resumed")[0]["step"] == STEPS
    assert metrics_of(run)[0]["loss"] < 5.9, "less than log(320) and the noise of untrained weights"
    assert "seed was" in train_in_ranks(config_of("gpt2"), f"run_dir={run}", "seed=5", code=2)


def test_without_its_optimizer(trained_elsewhere: Jobs, foreign: Path, config_of: Callable, tmp_path: Path) -> None:
    done = import_run(foreign / "llama zero2", tmp_path / "run", config_of("llama"), step=0, weights_only=True)
    manifest = read_manifest(checkpoint_of(tmp_path / "run"))
    assert done.optimizer_updates is None and manifest.optimizer == "none" and manifest.step == 0
    assert {key.split("/")[0] for key in manifest.tensors} == {"param"}
    run = f"run_dir={tmp_path / 'run'}"
    assert "reset_optimizer" in train_in_ranks(config_of("llama"), run, "train.stop_at_step=1", code=2)
    train_in_ranks(config_of("llama"), run, "train.stop_at_step=1", "checkpoint.reset_optimizer=true")


def test_another_step_moves_the_schedule_but_not_the_bias_correction(
    trained_elsewhere: Jobs, foreign: Path, config_of: Callable, tmp_path: Path
) -> None:
    import_run(foreign / "llama zero2", tmp_path / "run", config_of("llama"), step=1)
    manifest = read_manifest(checkpoint_of(tmp_path / "run"))
    assert (manifest.step, manifest.optimizer_updates) == (1, STEPS)
    with pytest.raises(UserError, match=r"train\.steps=20 ends there"):
        import_run(foreign / "llama zero2", tmp_path / "late", config_of("llama"), step=20)
    with pytest.raises(UserError, match=r"--step 20 leaves nothing to do"):
        import_run(foreign / "llama zero2", tmp_path / "late", config_of("llama"), step=20)


def test_tensors_pass_through_memory_a_few_at_a_time(
    trained_elsewhere: Jobs, foreign: Path, config_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_run(foreign / "gpt2 dcp", tmp_path / "whole", config_of("gpt2"))
    monkeypatch.setattr(importing, "GROUP_BYTES", 30_000)
    import_run(foreign / "gpt2 dcp", tmp_path / "parts", config_of("gpt2"))
    files = [path.stat().st_size for path in checkpoint_of(tmp_path / "parts").glob("*.safetensors")]
    assert len(files) > 10 and sorted(files)[-4] < 36_000, "all but the table, 41 kB alone, three times"
    assert same(tmp_path / "whole", tmp_path / "parts")


def same(one: Path, other: Path) -> bool:
    """Do two runs' checkpoints hold the same tensors?"""
    first, second = (dict(read_tensors(checkpoint_of(run))) for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# What must be refused


class Broken:
    """Copies of the sources to break, and what becomes of them."""

    def __init__(self, foreign: Path, config_of: Callable[[str], Path], root: Path) -> None:
        self.foreign, self.config_of, self.root = foreign, config_of, root
        self.number = 0

    def copy(self, name: str) -> Path:
        """A fresh copy of a source; the folder of its step."""
        self.number += 1
        folder = shutil.copytree(self.foreign / name, self.root / f"{self.number}")
        return folder / f"global_step{STEPS}" if "zero" in name else folder

    def run(self, name: str, folder: Path, **options: Any) -> Imported:
        """Import it; after an error nothing but the sources may be there."""
        out = self.root / "out" / "run"
        try:
            return import_run(folder, out, self.config_of(name.split()[0]), **options)
        finally:
            left = [path for path in (self.root / "out").glob("*") if path != out]
            assert not left, f"left behind: {left}"
            shutil.rmtree(out, ignore_errors=True)

    def refused(self, name: str, folder: Path, message: str, **options: Any) -> None:
        """It must be refused with a sentence."""
        with pytest.raises((UserError, ModelError), match=message) as raised:
            self.run(name, folder, **options)
        assert len(str(raised.value)) < 700 and "\n" not in str(raised.value)


@pytest.fixture
def broken(trained_elsewhere: Jobs, foreign: Path, config_of: Callable[[str], Path], tmp_path: Path) -> Broken:
    return Broken(foreign, config_of, tmp_path)


def flip(path: Path, position: int, bit: int = 4) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def cut(path: Path, share: float = 0.7) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def test_a_missing_file_is_named(broken: Broken) -> None:
    for name, file in [
        ("llama zero2", "zero_pp_rank_1_mp_rank_00_optim_states.pt"),
        ("llama zero2", "zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        ("llama zero2", "mp_rank_00_model_states.pt"),
        ("llama-untied zero3", "zero_pp_rank_1_mp_rank_00_optim_states.pt"),
        ("gpt2 dcp", "__1_0.distcp"),
        ("gpt2 dcp", ".metadata"),
    ]:
        folder = broken.copy(name)
        (folder / file).unlink()
        broken.refused(name, folder, re.escape(file) + ".* missing")
    folder = broken.copy("universal2")
    (folder / "step3_universal/zero/transformer.h.0.ln_1.bias/exp_avg.pt").unlink()
    broken.refused("gpt2", folder, r"ln_1\.bias/exp_avg\.pt is missing")
    shutil.rmtree(folder / "step3_universal/zero/transformer.h.0.ln_1.bias")
    broken.refused("gpt2", folder, r"transformer\.h\.0\.ln_1\.bias/fp32\.pt is missing")
    (folder / "step3_universal/mp_rank_00_model_states.pt").unlink()
    broken.refused("gpt2", folder, r"transformer\.h\.0\.ln_1\.bias missing")


def test_a_file_that_is_cut_off_is_named(broken: Broken) -> None:
    for name, file in [
        ("llama zero1", "zero_pp_rank_1_mp_rank_00_optim_states.pt"),
        ("llama-untied zero3", "zero_pp_rank_0_mp_rank_00_model_states.pt"),
        ("gpt2 dcp", "__0_0.distcp"),
        ("gpt2 dcp", ".metadata"),
    ]:
        folder = broken.copy(name)
        cut(folder / file)
        broken.refused(name, folder, re.escape(file) + ".*(cut off|damaged)")


def test_a_flipped_bit_in_a_tensor_is_seen(broken: Broken) -> None:
    """By the checksums that torch.save writes and no loader compares."""
    for name, file in [("llama zero2", "zero_pp_rank_1_mp_rank_00_optim_states.pt"), ("llama dcp", "__1_0.distcp")]:
        folder = broken.copy(name)
        flip(folder / file, 30_000)  # within a table
        broken.refused(name, folder, re.escape(file) + ".*damaged")


@pytest.mark.parametrize(
    ("name", "file"), [("llama dcp", ".metadata"), ("llama zero2", "zero_pp_rank_0_mp_rank_00_optim_states.pt")]
)
def test_any_flipped_bits_are_refused_or_change_nothing(name: str, file: str, broken: Broken, tmp_path: Path) -> None:
    folder = broken.copy(name)
    whole = (folder / file).read_bytes()
    import_run(folder, tmp_path / "good", broken.config_of("llama"))
    chance, refused = random.Random(4), 0
    for _ in range(40):
        (folder / file).write_bytes(whole)
        for _ in range(chance.choice((1, 8))):
            flip(folder / file, chance.randrange(len(whole)), chance.randrange(8))
        try:
            import_run(folder, tmp_path / "out", broken.config_of("llama"))
        except (UserError, ModelError) as error:
            refused += 1
            assert "\n" not in str(error), error
            assert not (tmp_path / "out").exists()
        else:
            assert same(tmp_path / "good", tmp_path / "out")
            shutil.rmtree(tmp_path / "out")
    assert refused > 10


def test_files_of_two_saves_are_not_mixed(broken: Broken) -> None:
    folder = broken.copy("llama zero2")
    name = "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    shutil.copy(broken.foreign / "later" / "global_step5" / name, folder / name)
    for weights_only in (False, True):  # which lie in the same files
        broken.refused(
            "llama zero2",
            folder,
            r"step 3 in .* and at step 5 in (?!.*weights-only)",
            weights_only=weights_only,
        )
    folder = broken.copy("llama zero2")
    shutil.copy(folder / name, folder / name.replace("rank_1", "rank_3"))
    broken.refused("llama zero2", folder, r"rank_3.*of another save")
    shutil.copy(folder / name, folder / f"bf16_{name}")
    broken.refused("llama zero2", folder, "of the same rank")


def change_file(path: Path, change: Callable[[Any], None]) -> None:
    content = torch.load(path, weights_only=False)
    with torch.no_grad():
        change(content)
    torch.save(content, path)


def test_a_universal_checkpoint_of_two_saves(broken: Broken) -> None:
    folder = broken.copy("universal2/step3_universal")
    torch.save(torch.tensor(5.0), folder / "zero/transformer.h.0.ln_1.bias/step.pt")
    for weights_only in (False, True):
        broken.refused("gpt2", folder, r"files of two saves(?!.*weights-only)", weights_only=weights_only)
    folder = broken.copy("universal3/step3_universal")
    for file in folder.glob("*model_states.pt"):
        change_file(file, lambda model: model.update(global_steps=6, skipped_steps=1))
    broken.refused("gpt2", folder, r"is of update 5 \(global_steps 6 less .* 1\) .* of update 3: files of two saves")


def test_the_model_file_is_of_the_same_save_as_the_optimizer_files(broken: Broken) -> None:
    name, model = "zero_pp_rank_{}_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"
    later = broken.foreign / "later" / "global_step5"
    folder = broken.copy("llama zero2")
    for rank in range(3):
        shutil.copy(later / name.format(rank), folder / name.format(rank))
    for weights_only in (False, True):
        message = f"{model} is of update 3 .* of update 5: files of two saves"
        broken.refused("llama zero2", folder, message, weights_only=weights_only)
    folder = broken.copy("llama-untied zero3")
    change_file(folder / f"zero_pp_rank_0_{model}", lambda content: content.update(global_steps=4))
    broken.refused("llama-untied zero3", folder, "of update 4 .* of update 3: files of two saves")
    change_file(folder / f"zero_pp_rank_0_{model}", lambda content: content.update(skipped_steps=1))
    assert broken.run("llama-untied zero3", folder).optimizer_updates == STEPS


def test_the_fp32_values_are_those_of_the_model_file(broken: Broken) -> None:
    """Which shows files of two saves of the same step, and ranks' files under each other's names."""
    name, model = "zero_pp_rank_{}_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"
    folder = broken.copy("llama zero2")
    first, second = folder / name.format(0), folder / name.format(1)
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)
    for weights_only in (False, True):
        message = rf"{model}: model\.\S+ differs there from its fp32 value"
        broken.refused("llama zero2", folder, message, weights_only=weights_only)
    folder = broken.copy("llama-untied bf16 zero1")
    change_file(folder / model, lambda content: content["module"]["model.norm.weight"].mul_(1.01))
    broken.refused("llama-untied bf16 zero1", folder, r"model\.norm\.weight differs there")
    change_file(folder / model, lambda content: content["module"].pop("model.norm.weight"))
    broken.refused("llama-untied bf16 zero1", folder, r"lacks model\.norm\.weight")


def test_without_the_optimizer_files_of_zero_only_weights_are_there(broken: Broken) -> None:
    for name, types in [("llama zero1", "float32"), ("llama-untied bf16 zero1", "bfloat16")]:
        folder = broken.copy(name)
        for path in folder.glob("*_optim_states.pt"):
            path.unlink()
        broken.refused(name, folder, r"no \*_optim_states\.pt, in which ZeRO-1 keeps.*--weights-only")
        done = broken.run(name, folder, weights_only=True)
        assert done.optimizer_updates is None and f"as rounded to {types}" in " ".join(done.notes)
    folder = broken.copy("llama-untied zero3")
    for path in folder.glob("*_optim_states.pt"):
        path.unlink()
    for weights_only in (False, True):
        broken.refused("llama-untied zero3", folder, r"no \*_optim_states\.pt", weights_only=weights_only)


def test_what_is_not_finite_is_refused(broken: Broken) -> None:
    folder = broken.copy("llama zero2")
    name = "zero_pp_rank_0_mp_rank_00_optim_states.pt"

    def spoil(content: Any) -> None:
        content["optimizer_state_dict"]["base_optimizer_state"]["state"][0]["exp_avg_sq"][7] = float("inf")

    change_file(folder / name, spoil)
    broken.refused("llama zero2", folder, r"exp_avg_sq of model\.embed_tokens\.weight holds NaN or inf.*rank_0")
    folder = broken.copy("universal3/step3_universal")
    place = folder / "zero/transformer.h.1.ln_1.bias/fp32.pt"
    change_file(place, lambda content: content[3:4].fill_(float("nan")))
    broken.refused("gpt2", folder, r"param of transformer\.h\.1\.ln_1\.bias holds NaN or infinity")


def test_a_damaged_pointer_is_told(broken: Broken, tmp_path: Path) -> None:
    source = shutil.copytree(broken.foreign / "llama zero2", tmp_path / "source")
    shutil.copytree(source / "global_step3", source / "global_step2")
    for content, shown in [
        (b"g" * 5000, "g{60},"),
        (b"\0\x1b[2J\xff", r"\\x00\\x1b\[2J"),
        (b" \n", "nothing"),
        (b"global_step9", "global_step9"),
    ]:
        (source / "latest").write_bytes(content)
        broken.refused("llama", source, rf"latest names {shown}.* is not in .*give the step's own folder")
    (source / "latest").unlink()
    broken.refused("llama", source, "latest is missing.* global_step2, global_step3")


class Evil:
    """A pickle that runs a command when it is believed."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.proof}'",)


def test_hostile_pickles_are_not_run(broken: Broken, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    folder = broken.copy("llama zero2")
    torch.save({"module": {}, "evil": Evil(proof)}, folder / "mp_rank_00_model_states.pt")
    broken.refused("llama zero2", folder, r"class posix\.system, which could run code")
    folder = broken.copy("llama zero2")
    rank = folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    rank.write_bytes(pickle.dumps(Evil(proof)))
    broken.refused("llama zero2", folder, "damaged")
    folder = broken.copy("llama dcp")
    (folder / ".metadata").write_bytes(pickle.dumps(Evil(proof)))
    broken.refused("llama dcp", folder, r"class posix\.system, which could run code")
    folder = broken.copy("universal3")
    torch.save({"state": Evil(proof)}, folder / "step3_universal/zero/optimizer_state.pt")
    broken.refused("gpt2", folder, r"class posix\.system")
    assert not proof.exists()


def change_metadata(folder: Path, change: Callable[[Any], None]) -> Path:
    metadata = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - written by a test
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def test_each_element_must_be_there_once(broken: Broken) -> None:
    key = "model.model.layers.1.mlp.up_proj.weight"

    def lose_a_shard(metadata: Any) -> None:
        del metadata.state_dict_metadata[key].chunks[1]

    def read_one_twice(metadata: Any) -> None:
        chunks = metadata.state_dict_metadata[key].chunks
        chunks[1] = chunks[0]

    def point_outside(metadata: Any) -> None:
        for info in metadata.storage_data.values():
            info.relative_path = "../../secret"

    def point_elsewhere(metadata: Any) -> None:
        infos = {index.fqn: info for index, info in metadata.storage_data.items()}
        other = infos["model.model.norm.weight"]
        infos[key].offset, infos[key].length = other.offset, other.length

    for change, message in [
        (lose_a_shard, f"{re.escape(key)} is not whole: .*1856 of 2816"),
        (read_one_twice, f"{re.escape(key)} is not whole: chunks overlap"),
        (point_outside, "outside the folder"),
        (point_elsewhere, "is not model"),
    ]:
        broken.refused("llama dcp", change_metadata(broken.copy("llama dcp"), change), message)


def test_what_is_not_this_model_is_told(broken: Broken, config_of: Callable, tmp_path: Path) -> None:
    folder = broken.copy("llama zero2")
    for change, message in [
        ({"num_hidden_layers": 3}, r"Nearest are .*layers\.2.* and 6 more missing"),
        ({"num_hidden_layers": 1}, r"layers\.1.* unknown"),
        ({"intermediate_size": 96}, r"gate_proj\.weight is \[88, 32\], the configuration makes it \[96, 32\]"),
        ({"tie_word_embeddings": False}, r"lm_head\.weight missing"),
        ({"attention_bias": True}, r"q_proj\.bias.* missing"),
    ]:
        config = yaml.safe_load(config_of("llama").read_text())
        config["model"] |= change
        (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(CheckpointError, match=message):
            import_run(folder, tmp_path / "out", tmp_path / "other.yaml")
    with pytest.raises(CheckpointError, match=r"The names look like Llama, and .*Nearest are "):
        import_run(folder, tmp_path / "out", config_of("gpt2"))
    with pytest.raises(CheckpointError, match=r"The names look like GPT-2, and .*Nearest are "):
        import_run(broken.copy("gpt2 zero2"), tmp_path / "out", config_of("llama"))
    assert not (tmp_path / "out").exists()


def test_folders_that_are_nothing_known(broken: Broken, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken.refused("llama", tmp_path / "empty", "is no checkpoint known here")
    broken.refused("llama", tmp_path / "none", "is not a folder")
    (tmp_path / "empty" / "latest").write_text("../../etc")
    broken.refused("llama", tmp_path / "empty", "names ../../etc, which is not in")
    shutil.copytree(broken.foreign / "llama dcp", tmp_path / "steps" / "step-3")
    broken.refused("llama", tmp_path / "steps", r"step-3 has one, give that")
    taken = tmp_path / "taken"
    (taken / "something").mkdir(parents=True)
    with pytest.raises(UserError, match="exists already"):
        import_run(broken.foreign / "llama dcp", taken, broken.config_of("llama"))


def save_dcp(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rename: Callable[[str], str]
) -> None:
    """One process's checkpoint, as torchtitan makes it: weights at the top, flat moments."""
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    optimizer.step()
    weights, state = get_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
    state = {key: value for key, value in state.items() if not key.startswith("param_groups")}
    names = {name: rename(name) for name in weights}
    renamed = {
        key: re.sub(r"^state\.(.+)\.(\w+)$", lambda match: f"state.{names[match[1]]}.{match[2]}", key) for key in state
    }
    dcp.save(
        {**{names[n]: t for n, t in weights.items()}, "optimizer": {renamed[k]: v for k, v in state.items()}},
        checkpoint_id=folder,
        no_dist=True,
    )


TITAN = {
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "gate_proj": "w1",
    "up_proj": "w3",
    "down_proj": "w2",
    "mlp": "feed_forward",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def titan_name(name: str) -> str:
    for ours, theirs in TITAN.items():
        name = name.replace(ours, theirs)
    return name


def pairs(weight: Tensor, head_dim: int) -> Tensor:
    """From halves of a head to neighbouring pairs, as Meta's rotary embedding wants them."""
    order = torch.arange(head_dim).view(2, -1).t().flatten()
    return weight.view(-1, head_dim, weight.shape[1])[:, order].flatten(0, 1)


def test_torchtitan_names_and_rotary_layout(broken: Broken, config_of: Callable, tmp_path: Path) -> None:
    config = ModelConfig(**LLAMA)
    model = GPT(config)
    model.load_state_dict(random_weights(config))
    rotary = [p for n, p in model.named_parameters() if n.endswith(("q_proj.weight", "k_proj.weight"))]
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in rotary:
            parameter.copy_(pairs(parameter, config.size_per_head))
    save_dcp(tmp_path / "dcp", model, torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0), titan_name)
    with pytest.raises(UserError, match="exists already"):
        import_run(tmp_path / "dcp", tmp_path, config_of("llama-untied"))
    done = import_run(tmp_path / "dcp", tmp_path / "run", config_of("llama-untied"))
    tensors = dict(read_tensors(checkpoint_of(tmp_path / "run")))
    assert done.names == "torchtitan's names" and done.step == 1
    assert all(torch.equal(tensors[f"param/{name}"], value) for name, value in expected.items())
    name = "layers.1.self_attn.k_proj.weight"
    gradient = dict(model.named_parameters())[name].grad
    assert torch.allclose(pairs(tensors[f"exp_avg/{name}"], 8), 0.1 * gradient)


def test_a_source_with_another_optimizer(config_of: Callable, tmp_path: Path) -> None:
    model = GPT(ModelConfig(**LLAMA))
    model.load_state_dict(random_weights(model.config))
    save_dcp(tmp_path / "sgd", model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), str)
    with pytest.raises(CheckpointError, match=r"keeps momentum_buffer, not the moments of AdamW.*--weights-only"):
        import_run(tmp_path / "sgd", tmp_path / "run", config_of("llama-untied"))
    with pytest.raises(UserError, match="does not say its step; give --step"):
        import_run(tmp_path / "sgd", tmp_path / "run", config_of("llama-untied"), weights_only=True)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    dcp.save({"model": model.state_dict(), "optim": optimizer.state_dict()}, checkpoint_id=tmp_path / "n", no_dist=True)
    with pytest.raises(CheckpointError, match=r"state\.\d+\.\w+ goes by a number.*get_state_dict"):
        import_run(tmp_path / "n", tmp_path / "run", config_of("llama-untied"))
    done = import_run(tmp_path / "n", tmp_path / "run", config_of("llama-untied"), step=7, weights_only=True)
    assert done.step == 7 and any("reset_optimizer" in note for note in done.notes)


def trained_state(changed: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and AdamW's state after one update, under their names; one parameter's count may be another."""
    model = GPT(ModelConfig(**LLAMA))
    model.load_state_dict(random_weights(model.config))
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    weights, state = get_state_dict(model, optimizer)
    if changed:
        state["state"][changed]["step"] = torch.tensor(2.0)
    return weights, state


def test_moments_go_with_their_weights_and_not_with_averaged_ones(config_of: Callable, tmp_path: Path) -> None:
    weights, state = trained_state()
    averaged = {name: value / 2 for name, value in weights.items()}
    config = config_of("llama-untied")

    def save(name: str, content: dict[str, Any]) -> Path:
        dcp.save(content, checkpoint_id=tmp_path / name, no_dist=True)
        return tmp_path / name

    for name, content, kept in [
        ("beside", {"ema": averaged, "model": weights, "optim": state}, "model."),
        ("deeper", {"app": {"ema": {"m": averaged}, "model": {"m": weights}, "optim": state}}, "app.model.m."),
        ("top", {"ema": averaged, **weights, "optimizer": state}, ""),
    ]:
        done = import_run(save(name, content), tmp_path / f"run {name}", config)
        tensors = dict(read_tensors(checkpoint_of(tmp_path / f"run {name}")))
        assert all(torch.equal(tensors[f"param/{n}"], value) for n, value in weights.items()), name
        assert any("ema." in note and f"beside {kept}*" in note for note in done.notes)
        assert not any("no parameters" in note for note in done.notes)
    lost = {name: value for name, value in weights.items() if name != "norm.weight"}
    both = "more than once, as (ema|live).* and as (ema|live)"
    for name, content, message, options in [
        ("lost", {"ema": averaged, "model": lost, "optim": state}, r"norm\.weight missing", {}),
        ("unclear", {"ema": averaged, "live": weights, "optim": state}, both, {}),
        ("unclear", {"ema": averaged, "live": weights, "optim": state}, both, {"weights_only": True}),
        ("alone", {"ema": averaged, "live": weights}, both, {"step": 1}),
        ("two", {"model": weights, "optim": state, "optim2": state}, "are of two optimizers", {}),
    ]:
        folder = tmp_path / name if (tmp_path / name).exists() else save(name, content)
        with pytest.raises(CheckpointError, match=message):
            import_run(folder, tmp_path / "out", config, **options)
    assert not (tmp_path / "out").exists()


def test_the_step_is_the_runs_own(config_of: Callable, tmp_path: Path) -> None:
    """As a tensor or a plain number, and never that of a scheduler; two that differ are for the user to choose from."""
    weights, state = trained_state()
    folders = iter(range(100))

    def run(extra: dict[str, Any], moments: Any = state, **options: Any) -> int:
        number = next(folders)
        folder, out = tmp_path / f"{number}", tmp_path / f"run{number}"
        dcp.save(
            {"model": weights, **({"optim": moments} if moments else {}), **extra}, checkpoint_id=folder, no_dist=True
        )
        return import_run(folder, out, config_of("llama-untied"), **options).step

    scheduler = {"lr_scheduler": {"step": torch.tensor(9.0)}}
    assert run({"step": 1, **scheduler}) == run(scheduler) == run({"train_state": {"step": torch.tensor(1)}}) == 1
    assert run({"step": 7, **scheduler}, None) == 7
    with pytest.raises(UserError, match="does not say its step; give --step"):
        run(scheduler, None)
    for weights_only in (False, True):
        with pytest.raises(UserError, match=r"is at step 7 by `step`, 1 by the optimizer.* --step N"):
            run({"step": 7}, weights_only=weights_only)
    with pytest.raises(UserError, match=r"7 by `\S+`, [78] by `\S+`.* --step N|8 by `\S+`, 7 by `\S+`.* --step N"):
        run({"step": 7, "train_state": {"step": torch.tensor(8)}}, None)
    assert run({"step": 7}, step=7) == 7
    for weights_only in (False, True):
        with pytest.raises(CheckpointError, match=r"files of two saves(?!.*weights-only)"):
            run({}, trained_state("norm.weight")[1], weights_only=weights_only)


@pytest.mark.parametrize("name", CONFIGS)
def test_names_under_prefixes_and_wrappers(name: str) -> None:
    config, weights = CONFIGS[name], random_weights(CONFIGS[name])
    forms = [weights, {f"model.{n}": t for n, t in weights.items()}]
    if "head-dim" not in name:
        hf = family_of(config).weights_to_hf(config, weights)
        forms += [hf, {f"module.{n}": t for n, t in hf.items()}, {f"app.model.{n}": t for n, t in hf.items()}]
        forms += [{n.replace(".mlp.", "._orig_mod.mlp."): t for n, t in hf.items()} | {"ema.x": torch.ones(2)}]
    for form in forms:
        naming = recognise("it", config, {n: tuple(t.shape) for n, t in form.items()})
        assert all(torch.equal(naming.places[n].of(form[naming.places[n].source]), t) for n, t in weights.items())


def test_a_tied_head_must_be_the_table(foreign: Path, config_of: Callable, tmp_path: Path) -> None:
    model = GPT(ModelConfig(**LLAMA))
    model.load_state_dict(random_weights(model.config))
    names = {n: n if n == "lm_head.weight" else f"model.{n}" for n in model.state_dict()}
    dcp.save({names[n]: t for n, t in model.state_dict().items()}, checkpoint_id=tmp_path / "untied", no_dist=True)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from .*set model\.tie_word_embeddings: false"):
        import_run(tmp_path / "untied", tmp_path / "run", config_of("llama"), step=0)
    assert (
        import_run(tmp_path / "untied", tmp_path / "run", config_of("llama-untied"), step=0).optimizer_updates is None
    )


# Into DeepSpeed


def test_plain_deepspeed_goes_on_from_the_export(trained: Callable[[str], Path], foreign: Path, tmp_path: Path) -> None:
    """A run of ours, exported once: ZeRO 1, 2 and 3 of three ranks see the losses that we would see."""
    run = trained("gpt2")
    done = export_deepspeed(run, tmp_path / "out", names="hf")
    assert len(done.checks) == 2 and done.step == done.optimizer_updates == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    jobs = {f"zero{n}": {"model": "gpt2", "stage": n, "load": str(tmp_path / "out")} for n in (1, 2, 3)}
    answers = run_foreign(foreign, "loaded", jobs)
    expected = next_losses(run, foreign)
    for name, answer in answers.items():
        assert answer["step"] == 60
        assert answer["losses"] == pytest.approx(expected, rel=1e-5), name


def test_an_export_comes_back(trained: Callable[[str], Path], config_of: Callable, tmp_path: Path) -> None:
    run = trained("llama-untied")
    export_deepspeed(run, tmp_path / "out", step=30)
    config = yaml.safe_load(config_of("llama-untied").read_text())
    config["train"]["steps"] = 100
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config))
    done = import_run(tmp_path / "out", tmp_path / "again", tmp_path / "again.yaml")
    assert done.step == 30
    before = dict(read_tensors(run / "checkpoints" / "step_00000030"))
    after = dict(read_tensors(checkpoint_of(tmp_path / "again")))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    with pytest.raises(UserError, match=r"exists already.*--force"):
        export_deepspeed(run, tmp_path / "out")


def test_options_of_the_other_format_are_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    for options, message in [
        (["--format", "deepspeed", "--dtype", "bfloat16"], "--dtype is for --format hf"),
        (["--names", "hf"], "--names is for --format deepspeed"),
    ]:
        monkeypatch.setattr(sys, "argv", ["megamodel", "export", str(tmp_path), str(tmp_path / "out"), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.slow
def test_what_deepspeed_does_not_confirm_is_no_export(
    trained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, right = trained("gpt2"), universal_write.write_states
    for mistake, message in [
        (lambda *a: right(a[0], a[1], a[2], a[3] + 1), "counts .*61.* updates, not 60"),
        (lambda *a: right(a[0], a[1], a[2] + 1, a[3]), "goes on from step 61, not 60"),
    ]:
        monkeypatch.setattr("tools.convert.export_deepspeed.write_states", mistake)
        with pytest.raises(CheckFailed, match=message):
            export_deepspeed(run, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setitem(universal_write.FILES, "exp_avg", "exp_avg_sq.pt")
    with pytest.raises(CheckFailed, match=r"DeepSpeed .*disagrees"):
        export_deepspeed(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())
