"""`python plain_deepspeed.py JOBS.json`: what a user of plain DeepSpeed has. Imports nothing of megamodel.

Trains tiny transformers models with ZeRO, saves DeepSpeed's own checkpoints, loads universal ones, and tells the losses
of the next two steps. Each job is a dict, see `work`; all jobs of a file run one after another in the same two ranks.
"""

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
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

RANKS = 2
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


def step(engine: deepspeed.DeepSpeedEngine, tokens: torch.Tensor, train: bool = True) -> float:
    mine = tokens.chunk(RANKS)[dist.get_rank()]
    loss = engine(input_ids=mine, labels=mine).loss
    if train:
        engine.backward(loss)
        engine.step()
    mean = loss.detach().float()
    dist.all_reduce(mean)
    return float(mean) / RANKS


def work(job: dict) -> dict:
    """Build `model` and train or `load`; then `save`, and tell the losses of two more steps."""
    torch.manual_seed(0)
    batches = torch.load(job["batches"])
    model = build(job["model"])
    optimizer = torch.optim.AdamW(groups(model, job), **ADAMW)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings(job))
    if "load" in job:
        engine.load_checkpoint(job["load"])
    for number in range(job.get("steps", 0)):
        step(engine, batches[number])
    if "save" in job:
        engine.save_checkpoint(job["save"], **job.get("save_as", {}))
    done = engine.global_steps
    losses = [step(engine, batches[done + index]) for index in range(2)]
    engine.destroy()
    return {"steps": done, "losses": losses}


def rank(number: int, jobs: list[dict], store: str, answers: str) -> None:
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(RANKS)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=RANKS)
    deepspeed.init_distributed("gloo")
    done = [work(job) for job in jobs]
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
