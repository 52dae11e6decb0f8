"""Exports prove themselves: right ones are confirmed by transformers, wrong ones leave no folder."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from data_pipeline.tokenizer import Tokenizer
from launcher.cli.main import main
from launcher.errors import CheckFailed, UserError
from megamodel.errors import ModelError
from megamodel.families import gpt2, llama
from tests.conftest import LLAMA, run_training
from tests.tools.conftest import MODELS
from tools.convert import hf_write
from tools.convert.check_hf import check_folder
from tools.convert.export import Exported, export_hf
from tools.convert.probe import make_probe
from tools.convert.reference import make_reference, write_reference
from tools.convert.source import open_source

Trained = Callable[[str], Path]


@pytest.mark.parametrize("name", MODELS)
def test_transformers_confirms_the_export(name: str, exported: Callable[[str], Exported]) -> None:
    done = exported(name)
    assert {check.name for check in done.checks} >= {"names and shapes", "tokenizer", "logits of a prompt of 64 tokens"}
    assert all(check.ok for check in done.checks)
    assert not any("writing" in p.name for p in done.out.parent.iterdir()), "nothing else is left"
    assert len({path.stat().st_mode for path in done.out.iterdir()}) == 1, "all files are as readable as each other"
    written = json.loads((done.out / "config.json").read_text())
    assert written["vocab_size"] == 320 and written["dtype"] == written["torch_dtype"] == "float32"
    assert any("cut from 384 rows" in note for note in done.notes) == (name == "llama")
    tokenizer = json.loads((done.out / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast" and tokenizer["model_max_length"] == 64
    assert json.loads((done.out / "generation_config.json").read_text())["eos_token_id"] == 0


def test_an_export_reads_back_as_the_same_model(trained: Trained, exported: Callable[[str], Exported]) -> None:
    run = open_source(trained("gpt2"))
    export = open_source(exported("gpt2").out)
    ids = torch.arange(64)[None] * 5 % 320
    assert torch.equal(export.build()(ids), run.build()(ids))


def test_shards_in_bfloat16(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_write, "SHARD_BYTES", 20_000)
    done = export_hf(trained("llama"), tmp_path / "out", dtype="bfloat16")
    index = json.loads((done.out / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == 2 * index["metadata"]["total_parameters"] == done.bytes
    with safe_open(done.out / files[0], framework="pt") as file:
        assert (
            file.metadata() == {"format": "pt"} and file.get_tensor("model.embed_tokens.weight").dtype == torch.bfloat16
        )
    assert open_source(done.out).weights.keys() == open_source(trained("llama")).weights.keys()


@pytest.fixture(scope="module")
def short_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 small steps: attention is nearly uniform still."""
    folder = tmp_path_factory.mktemp("short")
    settings = {
        "run_dir": str(folder / "run"),
        "model": LLAMA,
        "data": {"tokenizer": str(tiny_data / "tokenizer"), "sources": [{"path": str(tiny_data / "train")}]},
        "train": {"steps": 20, "global_batch_size": 2, "micro_batch_size": 2, "seq_len": 32},
        "optimizer": {"lr": 1e-4},
        "engine": {"name": "single", "device": "cpu"},
        "checkpoint": {"every_steps": 20},
        "monitor": {"tensorboard": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    run_training(folder / "run.yaml")
    return folder / "run"


def interleaved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries and keys in the pairwise layout of Meta's files, heads of 8: what a forgotten permutation looks like."""

    def permuted(t: Tensor) -> Tensor:
        return t.unflatten(0, (-1, 2, 4)).transpose(1, 2).flatten(0, 2)

    return {n: permuted(t) if n.endswith(("q_proj.weight", "k_proj.weight")) else t for n, t in weights.items()}


def swapped(weights: dict[str, Tensor], one: str, other: str) -> dict[str, Tensor]:
    marker = "<>"
    names = {n: n.replace(one, marker).replace(other, one).replace(marker, other) for n in weights}
    return {names[n]: t for n, t in weights.items()}


def not_transposed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.t() if n.endswith("1.attn.c_proj.weight") else t for n, t in weights.items()}


def key_for_value(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    def exchanged(t: Tensor) -> Tensor:
        query, key, value = t.chunk(3, dim=-1)
        return torch.cat((query, value, key), dim=-1)

    return {n: exchanged(t) if "c_attn" in n else t for n, t in weights.items()}


MISTAKES = {
    "rotary layout": ("llama", interleaved),
    "gate and up": ("llama", lambda w: swapped(w, "gate_proj", "up_proj")),
    "a prefix": ("llama", lambda w: {n.replace("model.", "_orig_mod.model."): t for n, t in w.items()}),
    "a stray tensor": ("llama", lambda w: w | {"model.layers.0.extra.weight": torch.ones(3)}),
    "a missing layer norm": ("llama", lambda w: {n: t for n, t in w.items() if "0.input_layernorm" not in n}),
    "a matrix not transposed": ("gpt2", not_transposed),
    "key and value": ("gpt2", key_for_value),
}


def plant(mistake: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Spoil a family's conversion; return its name."""
    name, spoil = MISTAKES[mistake]
    family = {"llama": llama, "gpt2": gpt2}[name]
    right = family.weights_to_hf
    monkeypatch.setattr(family, "weights_to_hf", lambda config, weights: spoil(right(config, weights)))
    return name


def problems(run: Path, folder: Path) -> list[str]:
    """Write an export and check it, in this process."""
    source, out = open_source(run), folder / "out"
    out.mkdir()
    hf_write.write_hf(out, source.config, source.weights, source.tokenizer)
    write_reference(folder / "reference", make_reference(source.build(), Tokenizer.load(source.tokenizer)))
    try:
        return [f"{check.name}: {check.problem}" for check in check_folder(out, folder / "reference") if not check.ok]
    except Exception as error:  # the checking process takes any as its answer
        return [f"cannot be read: {error}"]


def test_a_planted_mistake_is_exit_code_1_and_no_folder(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    name = plant("rotary layout", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["megamodel", "export", str(trained(name)), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "disagrees, so nothing was exported: logits" in " ".join(capfd.readouterr().err.split())
    assert not any(tmp_path.iterdir()), "neither the folder nor a leftover"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found(
    mistake: str, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = plant(mistake, monkeypatch)
    assert problems(trained({"llama": "llama-untied"}.get(name, name)), tmp_path)


@pytest.mark.parametrize("name", ["llama-untied", "gpt2"])
def test_a_right_export_has_no_problems(name: str, trained: Trained, tmp_path: Path) -> None:
    assert problems(trained(name), tmp_path) == []


def test_a_wrong_rotary_base_is_found(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = llama.config_to_hf

    def forgotten(config):
        return {k: v for k, v in right(config).items() if k not in ("rope_theta", "rope_parameters")}

    monkeypatch.setattr(llama, "config_to_hf", forgotten)
    found = problems(trained("llama-untied"), tmp_path)
    assert found and all(problem.startswith("logits of a prompt") for problem in found)


SLIPS = {
    "rope_theta": lambda hf: (
        hf | {"rope_theta": 7.5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 7.5e5}}
    ),
    "norm_eps": lambda hf: hf | {"rms_norm_eps": 1e-6},
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_short_run_does_not_hide_a_small_mistake(
    slip: str, short_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = llama.config_to_hf
    monkeypatch.setattr(llama, "config_to_hf", lambda config: SLIPS[slip](right(config)))
    with pytest.raises(CheckFailed, match=r"random weights: logits" if slip == "rope_theta" else "logits"):
        export_hf(short_run, tmp_path / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", MODELS)
def test_right_exports_agree_with_room(name: str, exported: Callable[[str], Exported]) -> None:
    compared = [check for check in exported(name).checks if "logits" in check.name]
    assert len([check for check in compared if check.name.startswith("random weights")]) >= 3
    assert all(check.difference < check.tolerance / 10 for check in compared)


def test_the_probe_is_always_the_same_and_small(trained: Trained) -> None:
    source = open_source(trained("gpt2"))
    config = source.config.model_copy(update={"num_hidden_layers": 90})
    one, other = (make_probe(source, config, torch.bfloat16) for _ in range(2))
    assert one.config.num_hidden_layers == 2 and one.weights.keys() == source.weights.keys()
    assert all(torch.equal(t, other.weights[n]) and t.dtype == torch.bfloat16 for n, t in one.weights.items())


def test_a_wrong_tokenizer_is_found(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = hf_write._write_tokenizer

    def spoiled(folder: Path, *rest) -> None:
        right(folder, *rest)
        text = (folder / "tokenizer.json").read_text()
        (folder / "tokenizer.json").write_text(text.replace('"add_prefix_space": false', '"add_prefix_space": true'))

    monkeypatch.setattr(hf_write, "_write_tokenizer", spoiled)
    found = problems(trained("gpt2"), tmp_path)
    assert len(found) == 1 and found[0].startswith("tokenizer: other ids for")


def test_what_stands_there_is_not_overwritten(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export_hf(trained("gpt2"), out)
    with pytest.raises(UserError, match="is no export"):
        export_hf(trained("gpt2"), out, force=True)
    assert (out / "precious").read_text() == "mine"
    (out / "config.json").write_text("{}")
    with pytest.raises(UserError, match="exists already"):
        export_hf(trained("gpt2"), out)
    export_hf(trained("gpt2"), out, force=True)
    assert not (out / "precious").exists() and open_source(out)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_places_that_cannot_be_written_are_told(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "afile").write_text("")
    for out in (tmp_path / "afile" / "x", tmp_path / "afile" / "x" / "y", Path("/proc/x/y"), Path("/proc/x")):
        with pytest.raises(UserError, match="cannot be made"):
            export_hf(trained("gpt2"), out)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (Path(), Path(".."), tmp_path / "here"):
        with pytest.raises(UserError, match="where you stand"):
            export_hf(trained("gpt2"), out)


def test_a_damaged_newest_checkpoint_is_passed_over(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained("gpt2"), run)
    file = run / "checkpoints" / "step_00000060" / "rank_00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    source = open_source(run)
    assert source.name.endswith("(step_00000030)") and "step_00000060 is damaged" in source.notes[0]
    assert torch.equal(source.weights["norm.bias"], open_source(run, step=30).weights["norm.bias"])
    with pytest.raises(UserError, match="at least one bit has changed"):
        open_source(run, step=60)
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        open_source(run, step=7)


def test_a_model_of_no_family_is_refused(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained("gpt2"), run)
    settings = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(settings.replace("mlp_bias: true", "mlp_bias: false"))
    with pytest.raises(ModelError, match=r"to be gpt2, mlp_bias=false must be true"):
        export_hf(run, tmp_path / "out")
    with pytest.raises(ModelError, match="the configuration wants none of that name"):
        open_source(run).build()
    assert not (tmp_path / "out").exists()


def test_neither_run_nor_export(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run's folder"):
        open_source(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelError, match="cannot be read"):
        open_source(tmp_path)


def test_a_full_disk_is_told_and_leaves_nothing(trained: Trained, tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000));"
        "from launcher.cli.main import main; main()"
    )
    command = [sys.executable, "-c", program, "export", str(trained("gpt2")), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "cannot be written" in done.stderr and not any(tmp_path.iterdir())
