"""What a run is: one tree of settings, the only schema. Field docstrings are what `config explain` prints."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from megamodel.config import ModelConfig


def _home(path: Path) -> Path:
    """`~/runs` as the shell would read it; a folder literally named ~ is never what is meant."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder for {path.parts[0]}") from None


Location = Annotated[Path, AfterValidator(_home)]
"""A path, relative to the folder in which the command runs; ~ is the home folder."""


class Settings(BaseModel):
    """A group of settings: unknown names, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class SourceConfig(Settings):
    """One set of token shards and its share of the mixture."""

    path: Location
    """Prefix of the shard set, as given to `data prepare` or `data tokenize --out`; PREFIX.manifest.json must exist."""
    weight: NonNegativeFloat = 1.0
    """Share of the samples drawn from this set, relative to the other sources' weights; 0: none, unless one of
    data.segments names it. How it is understood: data.weighting."""
    name: str | None = None
    """What data.segments and data.skip, the metrics and the events call it; unset: the last part of its path, or all of
    the path where two sources end in the same."""


class TokenWeights(Settings):
    """Weights that count tokens."""

    kind: Literal["tokens"] = "tokens"
    """Selects this weighting."""


class DocumentWeights(Settings):
    """Weights that count documents."""

    kind: Literal["documents"]
    """Selects this weighting."""


class TemperatureWeights(Settings):
    """Shares that follow from the sources' sizes: weight * size^(1 / temperature) (arXiv:1910.10683)."""

    kind: Literal["temperature"]
    """Selects this weighting."""
    temperature: Annotated[float, Field(ge=0.01)] = 1.0
    """1: in proportion to the sizes; higher: nearer to equal shares, so that small sources are read more often. It is
    1 / alpha where an exponent alpha is given (XLM-R and mT5: alpha 0.3, temperature 3.33)."""
    size: Literal["tokens", "documents"] = "tokens"
    """What of a source is counted."""


Weighting = Annotated[TokenWeights | DocumentWeights | TemperatureWeights, Field(discriminator="kind")]


class SegmentConfig(Settings):
    """Other weights from some token of the run on."""

    from_token: Annotated[int, Field(ge=0, lt=2**62)]
    """The first sequence that begins at or after this many tokens of the run (`tokens` in the metrics) is the first
    drawn so; it need not begin a step."""
    weights: dict[str, NonNegativeFloat] | None = None
    """Share of each source, by its name or path; one that is not named gives nothing. Unset: the sources' own weights.

    Each source goes on where it was: no change of the weights repeats or skips its data.
    """
    weighting: Weighting | None = None
    """How these weights are understood; unset: as data.weighting says."""


def _in_order(numbers: "int | str") -> "int | str":
    """A number, or two that ascend."""
    found = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", str(numbers))
    if found is None or int(found[1]) > int(found[2] or found[1]):
        raise ValueError(f"must be a number, or two in order such as 1200-1300, not {str(numbers)[:40]!r}")
    return numbers


Numbers = Annotated[NonNegativeInt | str, AfterValidator(_in_order)]
"""A number, or the text FIRST-LAST, both included."""


def stretch(numbers: int | str) -> range:
    """The numbers that `Numbers` stands for."""
    first, _, last = str(numbers).partition("-")
    return range(int(first), int(last or first) + 1)


class SkipConfig(Settings):
    """What the run leaves out. Nothing else moves: every other sample stays at its place in its step."""

    documents: list[str] = []
    """Documents by their ids or as FILE:RECORD, looked up in all sources. Their tokens are neither targets nor inputs:
    each becomes an end-of-document token outside the loss."""
    documents_file: Location | None = None
    """A text file of more such documents, one a line."""
    numbers: dict[str, list[Numbers]] = {}
    """Documents by their numbers in a source, such as {web: [17, 40-99]}; nothing is looked up for these."""
    steps: list[Numbers] = []
    """Steps that make no update, such as [1200, 1300-1310]: their samples are passed over, weights and optimizer stay
    as they are, and the schedule goes on."""


class FillInTheMiddleConfig(Settings):
    """Documents rearranged so that the model learns to write what stands between two texts (arXiv:2207.14255)."""

    rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the documents that are rearranged: within each sequence, what it holds of them."""
    spm_rate: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of those in the order suffix, prefix, middle; the others are in the order prefix, suffix, middle."""
    prefix: str = "<|fim_prefix|>"
    """Special token of the tokenizer that stands before the prefix."""
    middle: str = "<|fim_middle|>"
    """Special token before the middle."""
    suffix: str = "<|fim_suffix|>"
    """Special token before the suffix."""
    sources: list[str] = []
    """Sources whose documents are rearranged, by name or path: those with code, say; empty: all."""


class DataConfig(Settings):
    """What the model reads."""

    tokenizer: Location
    """Folder of the tokenizer (tokenizer.json) that made the shards; its digest must equal the one in each manifest."""
    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    """The shard sets of the training mixture, and their weights from its beginning on."""
    weighting: Weighting = TokenWeights()
    """What the weights mean. tokens: shares of the tokens, as given; documents: shares of the documents, so that a
    source of longer ones gives more tokens; temperature: they multiply what follows from the sources' sizes. In
    proportion to the sizes: temperature 1."""
    segments: list[SegmentConfig] = []
    """Changes of the weights, in the order in which they come. A segment that lies in the future may be appended,
    changed or removed between two starts of a run; what the run has read may not."""
    skip: SkipConfig = SkipConfig()
    """What is left out; may change between two starts of a run."""
    validation: list[SourceConfig] = []
    """Shard sets for the validation loss, weighted as given; empty: no validation."""
    packing: Literal["contiguous", "best_fit"] = "contiguous"
    """How documents become training sequences. contiguous: the tokens one after the other, cut every train.seq_len;
    best_fit: whole documents packed so that none is cut that fits (arXiv:2404.10830), the rest of a sequence filled up
    outside the loss; the first start makes a plan beside each shard set. Validation is always contiguous."""
    fim: FillInTheMiddleConfig | None = None
    """Fill-in-the-middle, for code; {} takes its defaults, null is none. Validation data are never rearranged."""
    separate_documents: bool = False
    """Attention does not cross from one document into the next, and positions start again at each."""
    prefetch_batches: PositiveInt = 2
    """Batches that a background thread reads ahead of the step."""


class TrainConfig(Settings):
    """How long, how much at once, and how often to look."""

    steps: PositiveInt
    """Optimizer steps of the whole schedule."""
    stop_at_step: PositiveInt | None = None
    """Save and end after this step, to go on later with the same schedule; unset: run to `steps`."""
    global_batch_size: PositiveInt
    """Sequences in one optimizer step, over all ranks; gradient accumulation follows from it."""
    micro_batch_size: PositiveInt
    """Sequences that one rank takes through forward and backward at once."""
    seq_len: PositiveInt
    """Tokens in one sequence."""
    validate_every_steps: PositiveInt = 100
    """Steps between two validations; the last step always validates when data.validation is set."""
    validation_sequences: PositiveInt = 64
    """Sequences in one validation, over all ranks; the same ones every time."""


class CosineSchedule(Settings):
    """Warm up linearly, then follow half a cosine down to lr * min_lr_ratio at the last step."""

    name: Literal["cosine"] = "cosine"
    """Selects this schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up from zero."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Final learning rate as a part of the peak."""


class WsdSchedule(Settings):
    """Warm up, stay, decay (arXiv:2404.06395): linear warm-up, constant, then linear decay over the last steps."""

    name: Literal["wsd"]
    """Selects this schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up from zero."""
    decay_steps: PositiveInt
    """Steps of linear decay at the end."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Final learning rate as a part of the peak."""


class OptimizerConfig(Settings):
    """AdamW (arXiv:1711.05101) and its schedule."""

    lr: PositiveFloat
    """Peak learning rate."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Decay rates of the first and second moments."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay, on matrices only: never on norms, biases or embeddings of positions."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Clip the global gradient norm to this; null: no clipping."""
    schedule: Annotated[CosineSchedule | WsdSchedule, Field(discriminator="name")] = CosineSchedule()
    """How the learning rate moves over train.steps."""


class DeepSpeedConfig(Settings):
    """What only the engine deepspeed knows; its JSON follows from all settings, and `config show` prints it."""

    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where the fp32 weights' optimizer state lives and is updated; nvme needs nvme_path."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """Where ZeRO-3 keeps the parameters that are not in use."""
    nvme_path: Location | None = None
    """Folder on a fast local disk for optimizer state."""
    raw: dict[str, Any] = {}
    """Keys of DeepSpeed's own JSON, merged over what our settings give; one that contradicts ours wins, with a warning.

    Communication knobs belong here: {zero_optimization: {reduce_bucket_size: 5e8, overlap_comm: true}}.
    """


class EngineConfig(Settings):
    """What moves the gradients, and on which device."""

    name: Literal["single", "ddp", "fsdp", "deepspeed"] = "single"
    """single: one process; ddp: the whole model on each rank; fsdp: weights, gradients and optimizer sharded (FSDP2),
    with tp, pp and cp; deepspeed: ZeRO, see zero_stage."""
    zero_stage: Literal[1, 2, 3] | None = None
    """What engine.name=deepspeed shards: 1 optimizer state, 2 (unset means this) gradients too, 3 parameters too."""
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    """Settings of the engine deepspeed alone."""
    ranks: PositiveInt | None = None
    """Processes that `megamodel train` starts on this machine; unset: one per GPU, or 1 on a CPU.

    Under torchrun, deepspeed or srun their count rules.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Compute type; weights, their optimizer state and reductions stay fp32. auto: bf16 on a GPU, fp32 on a CPU."""
    compile: bool = False
    """torch.compile each block."""
    activation_checkpointing: Literal["none", "full", "every_nth", "selective", "memory_budget"] = "none"
    """What of a block is computed again in the backward pass instead of kept. full: all but each block's input;
    every_nth: that, for every activation_checkpointing_nth block; selective: all but the matrix products and attention;
    memory_budget: what the compiler chooses within activation_memory_budget (needs compile)."""
    activation_checkpointing_nth: PositiveInt = 2
    """With activation_checkpointing=every_nth: recompute blocks 0, n, 2n, ..."""
    activation_memory_budget: Annotated[float, Field(ge=0, le=1)] = 0.5
    """With activation_checkpointing=memory_budget: share of the activations that may be kept; 0: like full."""
    offload_activations: bool = False
    """Keep what the backward pass needs in the machine's memory instead of the GPU's; slower."""
    reshard_after_forward: bool = True
    """fsdp: free a block's gathered weights after its forward pass and gather them again for the backward pass."""
    prefetch_blocks: PositiveInt = 1
    """fsdp: blocks whose weights are gathered ahead of the one that computes."""
    bucket_megabytes: PositiveFloat = 25.0
    """ddp and deepspeed: gradients are reduced in buckets of about this size while the backward pass runs."""
    deterministic: bool = False
    """On a GPU, use only algorithms whose result is the same bits every time; slower. On a CPU they always are."""
    timeout_seconds: PositiveInt = 600
    """How long a rank waits for the others in a collective before it gives up."""


class ParallelConfig(Settings):
    """How the ranks are arranged: pp x dp_replicate x dp_shard x cp x tp, neighbours in tp closest together."""

    dp_replicate: PositiveInt = 1
    """Copies of the sharded model; above 1 with engine.name=fsdp it is HSDP."""
    dp_shard: PositiveInt | None = None
    """Ranks that share one copy of the model; unset: what the other sizes leave of the ranks."""
    tp: PositiveInt = 1
    """Ranks that share each matrix, by heads and features; between the blocks they share the sequence."""
    pp: PositiveInt = 1
    """Ranks that share the layers, each a run of consecutive blocks, and pass micro-batches along."""
    pp_schedule: Literal["1f1b", "interleaved_1f1b", "zbv"] = "1f1b"
    """Order of forward and backward passes: one forward one backward (arXiv:1806.03377), the same with several stages
    on each rank (arXiv:2104.04473), or the zero-bubble V with two (arXiv:2401.10241)."""
    pp_stages_per_rank: PositiveInt = 2
    """With pp_schedule=interleaved_1f1b: stages on each rank."""
    cp: PositiveInt = 1
    """Ranks that share each sequence."""
    cp_method: Literal["ring", "ulysses"] = "ring"
    """How they attend: keys and values go round a ring (arXiv:2310.01889), or an all-to-all exchanges tokens for heads
    (arXiv:2309.14509)."""


class CheckpointConfig(Settings):
    """When to save and what to keep."""

    initial: bool = False
    """Also save before the first step."""

    every_steps: PositiveInt = 1000
    """Steps between two checkpoints; the last step is always saved."""
    keep: PositiveInt = 2
    """The newest checkpoints that stay; older ones are deleted after a newer one is committed."""
    reset_optimizer: bool = False
    """Where the checkpoint to go on from has no state for this run's optimizer (another kind's, or weights only), take
    its weights with a fresh state; step and data order go on. Unset: refuse. Checkpoints saved after that hold this
    optimizer's state, so that the setting may stay: nothing is reset again."""
    permanent_every_steps: PositiveInt | None = None
    """Checkpoints at multiples of this are never deleted; a multiple of every_steps."""


class MonitorConfig(Settings):
    """What the run tells while it goes."""

    console_every_steps: PositiveInt = 1
    """Steps between two lines on the console."""
    tensorboard: bool = True
    """Also write TensorBoard files to RUN/tensorboard, when the tensorboard package is installed."""


class RunConfig(Settings):
    """One training run, whole."""

    run_dir: Location
    """Folder of the run: config, metrics, events, checkpoints, tokenizer."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1234
    """Seeds the initial weights (with each parameter's name) and the data order (with each sample's index)."""
    model: ModelConfig
    """The architecture."""
    data: DataConfig
    """The tokens."""
    train: TrainConfig
    """The loop."""
    optimizer: OptimizerConfig
    """The optimizer and its schedule."""
    engine: EngineConfig = EngineConfig()
    """The processes."""
    parallel: ParallelConfig = ParallelConfig()
    """The layout."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """The saves."""
    monitor: MonitorConfig = MonitorConfig()
    """The metrics."""
