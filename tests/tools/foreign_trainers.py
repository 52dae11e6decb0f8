"""`python foreign_trainers.py JOBS.json`: what users of plain DeepSpeed and of FSDP2 have. Nothing of megamodel.

Trains tiny transformers models, saves checkpoints as DeepSpeed and torch.distributed.checkpoint write them, loads
universal ones, and tells the losses of the next two steps. A file's jobs run one after another in the same three ranks.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}

import deepspeed
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from deepspeed.checkpoint import ds_to_universal
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

# Nothing is compiled into the home folder, where a killed compilation's lock would be waited for.
deepspeed.ops.__compatible_ops__ = {}

RANKS = 3
"""Which divides none of the models' sizes."""
ADAMW = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def build(kind: str) -> nn.Module:
    torch.manual_seed(5)
    sizes = {"vocab_size": 320, "tie_word_embeddings": kind != "llama-untied"}
    if kind == "gpt2":
        dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **sizes, **dropouts))
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=88,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        **sizes,
    )
    return LlamaForCausalLM(config)


def settings(job: dict) -> dict:
    return {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": job.get("bf16", False)},
        "zero_optimization": {"stage": job["stage"], **job.get("zero", {})},
        "checkpoint": {"load_universal": "load" in job},
    }


def groups(model: nn.Module, job: dict) -> list[dict]:
    """One group, or as everybody does it: no decay for vectors."""
    if not job.get("two_groups"):
        return [{"params": list(model.parameters())}]
    return [
        {"params": [p for p in model.parameters() if p.dim() >= 2]},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]


def mean(loss: torch.Tensor) -> float:
    total = loss.detach().float()
    dist.all_reduce(total)
    return float(total) / RANKS


def batch(job: dict, number: int) -> torch.Tensor:
    """This rank's part of the batch of a step."""
    batches = torch.load(job["batches"])
    return batches[number % len(batches)].chunk(RANKS)[dist.get_rank()]


def step(engine: deepspeed.DeepSpeedEngine, tokens: torch.Tensor) -> float:
    loss = engine(input_ids=tokens, labels=tokens).loss
    engine.backward(loss)
    engine.step()
    return mean(loss)


def with_deepspeed(job: dict) -> dict:
    """Build `model`, train `steps` or `load`, then `save`; two steps more, then `save_later`."""
    model = build(job["model"])
    optimizer = torch.optim.AdamW(groups(model, job), **ADAMW)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings(job))
    if "load" in job:
        engine.load_checkpoint(job["load"])
    for number in range(job.get("steps", 0)):
        step(engine, batch(job, number))
    if "save" in job:
        engine.save_checkpoint(job["save"], client_state={"arguments": argparse.Namespace(lr=1e-2)})
    if "dump" in job:
        dump(engine, job["dump"])
    done = engine.global_steps
    losses = [step(engine, batch(job, done + index)) for index in range(2)]
    if "save_later" in job:
        engine.save_checkpoint(job["save_later"])
    if "universal" in job:
        convert(Path(job["save"]), Path(job["universal"]))
    engine.destroy()
    return {"step": done, "losses": losses}


def dump(engine: deepspeed.DeepSpeedEngine, path: str) -> None:
    """The fp32 values and moments as DeepSpeed itself puts them together."""
    found = {}
    for name, parameter in engine.module.named_parameters():
        found[f"param/{name}"] = safe_get_full_fp32_param(parameter).clone()
        for moment in ("exp_avg", "exp_avg_sq"):
            found[f"{moment}/{name}"] = safe_get_full_optimizer_state(parameter, moment).clone()
    if dist.get_rank() == 0:
        torch.save(found, path)


def convert(root: Path, out: Path) -> None:
    """DeepSpeed's own converter to universal checkpoints."""
    if dist.get_rank() == 0:
        out.mkdir()
        options = argparse.Namespace(
            input_folder=str(root / (root / "latest").read_text()),
            output_folder=str(out / "step3_universal"),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
        ds_to_universal.main(options)
    dist.barrier()


def with_fsdp(job: dict) -> dict:
    """Train `model` under FSDP2, save it with torch.distributed.checkpoint, two steps more."""
    model = build(job["model"])
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    optimizer = torch.optim.AdamW(groups(model, job), **ADAMW)

    def step(number: int) -> float:
        tokens = batch(job, number)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return mean(loss)

    for number in range(job["steps"]):
        step(number)
    flat = job.get("flat", False)
    weights, moments = get_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=flat))
    state = {"model": weights, "optim": moments}
    if flat:
        state = {"app": state, "train_state": {"step": torch.tensor(job["steps"])}, "noise": torch.ones(3)}
    dcp.save(state, checkpoint_id=job["dcp"])
    return {"step": job["steps"], "losses": [step(job["steps"] + index) for index in range(2)]}


def rank(number: int, jobs: list[dict], store: str, answers: str) -> None:
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(RANKS)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=RANKS)
    deepspeed.init_distributed("gloo")
    done = [with_fsdp(job) if "dcp" in job else with_deepspeed(job) for job in jobs]
    if number == 0:
        Path(answers).write_text(json.dumps(done))
    dist.barrier()
    os._exit(0)


def main() -> int:
    jobs, answers = json.loads(Path(sys.argv[1]).read_text()), sys.argv[1] + ".answers"
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("fork")
        ranks = [
            context.Process(target=rank, args=(number, jobs, f"{folder}/store", answers)) for number in range(RANKS)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
    return max(process.exitcode or 0 for process in ranks)


if __name__ == "__main__":
    sys.exit(main())
