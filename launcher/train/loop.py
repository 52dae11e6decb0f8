"""The training loop: take a batch, make a step, look now and then, save now and then."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from data_pipeline.mixture import Batch
from data_pipeline.tokenizer import Tokenizer
from launcher.cluster.ranks import Ranks, compute_dtype
from launcher.config import RunConfig, SkipConfig
from launcher.engines import ENGINES, Engine, build_engine
from launcher.errors import CheckFailed
from launcher.layout import layout_of
from launcher.mixtures import training_mixture
from launcher.monitor.clock import Mark
from launcher.monitor.console import ConsoleLines, short
from launcher.monitor.events import EventLog
from launcher.monitor.metrics import JsonLines, MetricsWriter, Sink, StepRecord, TensorBoard, pack
from launcher.physics import num_parameters
from launcher.train.data import ValidationSet, to_micro_batches, train_loader, validation_set
from launcher.train.data_order import data_order
from launcher.train.epochs import Epochs
from launcher.train.left_out import LeftOut, leave_out
from launcher.train.run_folder import RunFolder
from launcher.train.schedule import lr_at
from launcher.train.stop import StopSignal
from launcher.train.takeover import Start, take_over, write_start
from megamodel import flops
from megamodel.checkpoint import CheckpointWriter, Saved
from megamodel.optim.adamw import state_shapes


def train(config: RunConfig, ranks: Ranks) -> None:
    """Train this run from where it stands to its last step, as one of `ranks`.

    Raises UserError for what a person can mend, CheckFailed when training itself fails (a loss that is not a number).
    """
    Trainer(config, ranks).run()


class Trainer:
    """One rank's side of a run."""

    def __init__(self, config: RunConfig, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks
        self.folder = RunFolder(config.run_dir)
        tokenizer = Tokenizer.load(config.data.tokenizer)
        mixture = training_mixture(config, tokenizer.digest)
        self.data_order = data_order(config, mixture, tokenizer)
        left_out = leave_out(config, mixture)
        layout = layout_of(config, ranks.world_size)
        place = (layout.data_rank(ranks.rank), layout.data_ranks)
        self.loader = train_loader(config, mixture, tokenizer, *place)
        self.validation = validation_set(config, tokenizer, *place)
        self.last_step = min(config.train.steps, config.train.stop_at_step or config.train.steps)
        start = take_over(config, ranks, ENGINES[config.engine.name].optimizer_kind, self.data_order)
        self.events = EventLog(self.folder.events if ranks.first else None)
        self.engine = build_engine(config, ranks, tokenizer.eos_id)
        self.step, optimizer_start = ranks.on_all(lambda: self._load(start))[0]
        ranks.on_first(lambda: write_start(self.folder, config, start, self.step, self.events))
        self._tell(left_out)
        self.epochs = Epochs(config, mixture, self.events)
        self.writer = self._checkpoint_writer(start.attempt, optimizer_start)
        self.metrics = MetricsWriter(self._finish_line, self._sinks())
        self._stopped = False
        self.rates = _Rates.measure(config, ranks)

    def _load(self, start: Start) -> tuple[int, int]:
        """Take up a checkpoint; its step, and the step after which its optimizer state began."""
        if start.checkpoint is None:
            return 0, 0
        manifest = self.engine.load(start.checkpoint, start.reset_optimizer)
        return manifest.step, manifest.step if start.reset_optimizer else manifest.optimizer_start

    def run(self) -> None:
        """Make the steps; leave the run saved and its metrics written."""
        if self.step >= self.last_step:
            self.metrics.close()
            self._say(f"this run stands at step {self.step}: there is nothing to train up to step {self.last_step}")
            return
        self._introduce()
        if self.step == 0 and self.config.checkpoint.initial:
            self._save()
        stop = StopSignal()
        batches = self.loader.batches(self.step + 1, self.last_step, self.config.data.prefetch_batches)
        with self.metrics:
            self._loop(batches, stop)
        self.writer.wait()
        self.events.write("ended", step=self.step)
        if self._stopped:
            self._say(f"stopped by a signal after step {self.step}, and saved; the same command goes on from here")

    def _introduce(self) -> None:
        """Say what is trained on what, and look at the untrained model."""
        engine, train = self.config.engine, self.config.train
        parameters = num_parameters(self.config.model)
        tokens = train.global_batch_size * train.seq_len
        dtype = str(compute_dtype(engine, self.ranks.device)).removeprefix("torch.")
        self._say(
            f"{short(parameters)} parameters; {engine.name} on {self.ranks.world_size} x {self.ranks.device.type}, "
            f"{dtype} compute; steps {self.step + 1} to "
            f"{self.last_step} of {tokens:,} tokens; {flops.CONVENTION}"
        )
        if self.step == 0 and self.validation:
            self._validate_alone("untrained", self.validation)

    def _validate_alone(self, what: str, validation: ValidationSet) -> None:
        """Validate where no step's line can hold the result."""
        loss = validate(self.engine, validation, self.ranks)["validation_loss"].item()
        bits = validation.bits_per_byte(loss)
        self.events.write("validated", step=self.step, validation_loss=loss, validation_bits_per_byte=bits)
        self._say(f"{what}: validation {loss:.4f} ({bits:.3f} bits/byte)")

    def _tell(self, left_out: LeftOut) -> None:
        """Say what of the data is left out, and what was to be and is not there."""
        if self.config.data.skip == SkipConfig():
            return
        missing = left_out.not_found
        self.events.write("left_out", documents=left_out.documents, not_found=len(missing), such_as=missing[:10])
        if missing:
            self._say(
                f"data.skip: {len(missing)} of its documents are in none of data.sources, such as {missing[0]!r}; "
                f"{left_out.documents} were found and are left out"
            )

    def _say(self, text: str) -> None:
        if self.ranks.first:
            print(text, flush=True)

    def _loop(self, batches: Iterator[Batch], stop: StopSignal) -> None:
        while self.step < self.last_step:
            started, waited = Mark(self.ranks.device), time.perf_counter()
            batch = next(batches)
            data_seconds = time.perf_counter() - waited
            if batch.target_tokens:
                self.metrics.push(self._one_step(batch, started, data_seconds))
            else:
                self._pass_over(batch)
            self.writer.check()
            stopping, unhealthy = stop.agreed(self.metrics.not_finite is not None)
            if unhealthy:
                self._refuse_not_finite()
            if stopping or self.step % self.config.checkpoint.every_steps == 0 or self.step == self.last_step:
                self._save()
            if stopping:
                self.events.write("stopped", step=self.step, reason="signal")
                self._stopped = True
                break

    def _one_step(self, batch: Batch, started: Mark, data_seconds: float) -> StepRecord:
        lr = lr_at(batch.step, self.config)
        micro_batches = to_micro_batches(batch.tokens, self.config.train.micro_batch_size, self.ranks.device)
        output = self.engine.train_step(micro_batches, batch.target_tokens, lr)
        ended = Mark(self.ranks.device)
        self.step = batch.step
        values = {"loss": output.loss, "grad_norm": output.grad_norm}
        if self.validation and self._validates():
            values |= validate(self.engine, self.validation, self.ranks)
        vector, names = pack(values)
        fields = {"lr": lr, "samples_digest": batch.samples_digest, "data_seconds": round(data_seconds, 6)}
        return StepRecord(self.step, started, ended, Mark(self.ranks.device), vector, names, fields)

    def _validates(self) -> bool:
        return self.step % self.config.train.validate_every_steps == 0 or self.step == self.last_step

    def _pass_over(self, batch: Batch) -> None:
        """A step that makes no update: nothing is computed, and only its number goes on."""
        self.step = batch.step
        self.writer.optimizer_start += 1  # it counts the updates from the other end
        reason = "data.skip.steps" if self.loader.skips(batch.step) else "all its documents are left out"
        self.events.write("skipped", step=self.step, reason=reason, samples_digest=batch.samples_digest)
        self._say(f"step {self.step} makes no update ({reason})")
        self.epochs.report(self.step)
        if self.validation and self._validates():
            self._validate_alone(f"step {self.step}", self.validation)

    def _refuse_not_finite(self) -> None:
        """Raise on every rank at the same step: when all know of it, or when all have read every step so far."""
        self.metrics.flush()
        step = self.metrics.not_finite
        if step is None:
            return
        self.events.write("not_finite", step=step)
        raise CheckFailed(
            f"step {step}: the loss or the gradient norm is not a finite number; nothing later was saved. Lower "
            "optimizer.lr or optimizer.max_grad_norm, look at the step's data with `megamodel inspect batch`, and "
            "start again: the run goes on from its newest checkpoint"
        )

    def _save(self) -> None:
        # The line of a saved step must be on disk first, and a state that is not finite must never be.
        self._refuse_not_finite()
        self.writer.save(self.step, self.engine.state())

    def _checkpoint_writer(self, attempt: str, optimizer_start: int) -> CheckpointWriter:
        return CheckpointWriter(
            self.folder.checkpoints,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            attempt=attempt,
            keep=self.config.checkpoint.keep,
            permanent_every_steps=self.config.checkpoint.permanent_every_steps,
            optimizer=self.engine.optimizer_kind,
            optimizer_start=optimizer_start,
            model=self.config.model.model_dump(mode="json"),
            data_order=self.data_order,
            shapes=state_shapes(self.config.model),
            on_saved=self._on_saved,
        )

    def _on_saved(self, saved: Saved) -> None:
        self.events.write("saved", step=saved.step, path=saved.path, bytes=saved.bytes, seconds=round(saved.seconds, 3))

    def _sinks(self) -> list[Sink]:
        if not self.ranks.first:
            return []
        sinks: list[Sink] = [JsonLines(self.folder.metrics)]
        sinks.append(ConsoleLines(self.step + 1, self.last_step, self.config.monitor.console_every_steps))
        if self.config.monitor.tensorboard and find_spec("tensorboard"):
            sinks.append(TensorBoard(self.folder.tensorboard, self.step + 1))
        return sinks

    def _finish_line(self, line: dict[str, Any], seconds: float) -> None:
        """Add what follows from the measured seconds of the step, and from the validation sums."""
        tokens = self.config.train.global_batch_size * self.config.train.seq_len
        line["tokens"] = line["step"] * tokens
        self.epochs.report(line["step"])
        if line["step"] % self.config.monitor.console_every_steps == 0 or line["step"] == self.last_step:
            line["epochs"] = self.epochs.after(line["step"])
        line["step_seconds"] = round(seconds, 6)
        line["tokens_per_second"] = round(tokens / seconds, 1)
        line |= self.rates.shares(tokens / seconds)
        if self.validation and "validation_loss" in line:
            line["validation_bits_per_byte"] = self.validation.bits_per_byte(line["validation_loss"])


def validate(engine: Engine, validation: ValidationSet, ranks: Ranks) -> dict[str, Tensor]:
    """Mean cross-entropy over the validation targets of all ranks, still on the device."""
    total = torch.zeros((), dtype=torch.float32, device=ranks.device)
    for tokens in validation.batches:
        total += engine.evaluate(tokens.to(ranks.device))
    return {"validation_loss": engine.sum_over_ranks(total) / validation.target_tokens}


@dataclass(frozen=True)
class _Rates:
    """What the devices of this run can do, to compare a step with."""

    flops_per_token: float
    peak: float | None
    """Published FLOP/s of all devices; None where none is published."""
    matmul: float
    """Measured FLOP/s of large matrix products on all devices."""

    @classmethod
    def measure(cls, config: RunConfig, ranks: Ranks) -> "_Rates":
        dtype = compute_dtype(config.engine, ranks.device)
        peak = flops.peak_flops(ranks.device, dtype)
        return cls(
            flops.flops_per_token(config.model, config.train.seq_len),
            peak * ranks.world_size if peak else None,
            flops.measured_matmul_flops(ranks.device, dtype) * ranks.world_size,
        )

    def shares(self, tokens_per_second: float) -> dict[str, float | None]:
        """MFU over the published peak, and the share of the measured matmul rate."""
        achieved = self.flops_per_token * tokens_per_second
        mfu = achieved / self.peak if self.peak else None
        return {"mfu": mfu and round(mfu, 4), "matmul_share": round(achieved / self.matmul, 4)}
