"""Which parameter of ours each tensor of another checkpoint is, told by the set of its names.

Recognised are our own names, those of Hugging Face's models of each family in `megamodel.families`, and those of
torchtitan's Llama (Meta's). Anything may stand before all names alike (`module.`, `model.`, `app.model.`), and what
wrappers put between (`_orig_mod.`) is left out. Layouts follow: a GPT-2's matrices are turned and its fused attention
is taken apart; Meta's rotary pairs are put into two halves. Moments go the way of their weights.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megamodel.config import ModelConfig
from megamodel.errors import CheckpointError, ModelError
from megamodel.families import Family, family_of
from megamodel.gpt import GPT

Shape = tuple[int, ...]
Tensors = dict[str, Tensor]

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
_CONSTANTS = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "freqs_cis")
_TABLE = "embed_tokens.weight"


@dataclass(frozen=True)
class Place:
    """A parameter of ours as a view of one foreign tensor, strided, then reshaped."""

    source: str
    shape: Shape
    view: Shape
    stride: Shape
    offset: int

    def of(self, source: Tensor) -> Tensor:
        """Ours, given the foreign tensor, contiguous."""
        return source.contiguous().as_strided(self.view, self.stride, self.offset).reshape(self.shape).contiguous()


@dataclass(frozen=True)
class Naming:
    """How a checkpoint names our parameters."""

    name: str
    places: dict[str, Place]
    """By our names."""
    copies: dict[str, str]
    """Foreign names of the copies that a tied head has, each with that of the table."""
    left_out: list[str]
    """Foreign names of everything else."""
    prefix: str
    """What stands before the names of all parameters."""
    rivals: list[str]
    """What stands before further copies of the model, such as averaged weights, which were not taken."""


@dataclass(frozen=True)
class _Convention:
    """Names and layouts of one kind of software: what it would hold, and which views of that are ours."""

    name: str
    expected: dict[str, Shape]
    ours: Callable[[Tensors], Mapping[str, Tensor]]
    table: str
    head: str


def recognise(where: str, config: ModelConfig, shapes: Mapping[str, Shape], beside: str | None = None) -> Naming:
    """Find each of our parameters among foreign tensors; CheckpointError says which names or shapes do not fit.

    Of several copies of the model the one in `beside`, directly or as `model`, is taken: there the optimizer lies.
    """
    names = _without_wrappers(where, shapes)
    tried = [(_fit(convention, config, names, beside), convention) for convention in _conventions(config)]
    fit, convention = min(tried, key=lambda pair: (len(pair[0].missing + pair[0].unknown), len(pair[0].left_out)))
    if fit.missing or fit.unknown:
        raise CheckpointError(_misfit(where, fit, convention, names))
    if fit.rivals and not fit.chosen:
        raise CheckpointError(
            f"{where}: the model is there more than once, as {fit.prefix}* and as {', '.join(fit.rivals)}*, and "
            "nothing says which one the optimizer's moments are of; save that one alone, as `model` beside `optim`"
        )
    for name, shape in convention.expected.items():
        found = shapes[names[fit.prefix + name]]
        if found != shape:
            raise CheckpointError(
                f"{where}: {names[fit.prefix + name]} is {list(found)}, the configuration makes it {list(shape)}; "
                "write the source's sizes into its `model` section"
            )
    copies = {names[fit.prefix + name]: names[fit.prefix + convention.table] for name in fit.copies}
    places = dict(_places(convention, fit.prefix, names))
    return Naming(convention.name, places, copies, fit.left_out, fit.prefix, fit.rivals)


@dataclass(frozen=True)
class _Fit:
    prefix: str
    rivals: list[str]
    chosen: bool
    """Is the prefix told by where the optimizer lies?"""
    missing: list[str]
    unknown: list[str]
    copies: list[str]
    left_out: list[str]


def _fit(convention: _Convention, config: ModelConfig, names: Mapping[str, str], beside: str | None) -> _Fit:
    """Compare with what stands behind the best prefix; foreign constants and what has another prefix are left out."""
    found = sorted({name.removesuffix(convention.table) for name in names if name.endswith(convention.table)})
    fitting = {start: sum(start + name in names for name in convention.expected) for start in found or [""]}
    own = [start for start in found if beside is not None and (start == beside or start.startswith(f"{beside}model."))]
    prefix = own[0] if len(own) == 1 else max(fitting, key=lambda start: fitting[start])
    rivals = [start for start, count in fitting.items() if start != prefix and count == len(convention.expected)]
    first_words = {name.split(".")[0] for name in convention.expected} | {convention.head.split(".")[0]}
    belongs = {n for n in names if n.startswith(prefix) and n.removeprefix(prefix).split(".")[0] in first_words}
    inside = {name.removeprefix(prefix) for name in belongs}
    left_out = sorted(names.keys() - belongs)
    unknown = {name for name in inside - convention.expected.keys() if not name.endswith(_CONSTANTS)}
    copies = unknown & {convention.head} if config.tie_word_embeddings else set()
    missing = [name for name in convention.expected if name not in inside]
    return _Fit(prefix, rivals, len(own) == 1, missing, sorted(unknown - copies), sorted(copies), left_out)


_MARKS = {
    "mlp.gate_proj.weight": "Llama",
    "feed_forward.w1.weight": "torchtitan's Llama",
    "wte.weight": "GPT-2",
}
"""Ends of names by which a family is known."""


def _looks_like(names: Mapping[str, str], convention: _Convention) -> str:
    """The family of the names when it is not the one that was expected."""
    for mark, family in _MARKS.items():
        there, expected = (any(name.endswith(mark) for name in group) for group in (names, convention.expected))
        if there and not expected:
            return f"The names look like {family}, and `model` is set as another family. "
    return ""


def _misfit(where: str, fit: _Fit, convention: _Convention, names: Mapping[str, str]) -> str:
    def some(names: list[str]) -> str:
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    parts = [f"{some(fit.missing)} missing"] if fit.missing else []
    parts += [f"{some(fit.unknown)} unknown"] if fit.unknown else []
    return (
        f"{where}: its {len(names)} tensors are not those of the configured model. {_looks_like(names, convention)}"
        f"Nearest are {convention.name}: {'; '.join(parts)}. "
        "Set `model` as the source was made (layers, tie_word_embeddings, biases), or rename them"
    )


def _without_wrappers(where: str, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Foreign names by what is left of them."""
    names: dict[str, str] = {}
    for name in shapes:
        bare = name
        for wrapper in _WRAPPERS:
            bare = bare.replace(wrapper, "")
        if bare in names:
            raise CheckpointError(f"{where}: {name} and {names[bare]} would be the same parameter")
        names[bare] = name
    return names


def _places(convention: _Convention, prefix: str, names: Mapping[str, str]) -> Iterator[tuple[str, Place]]:
    """Convert tensors without content: each of ours then says which view of which foreign one it is."""
    theirs = {name: torch.empty(shape, device="meta") for name, shape in convention.expected.items()}
    by_id = {id(tensor): names[prefix + name] for name, tensor in theirs.items()}
    for ours, view in convention.ours(theirs).items():
        source = by_id.get(id(view if view._base is None else view._base))
        if source is None:
            raise ModelError(f"{ours} cannot be read from {convention.name}: it is more than a view of one tensor")
        shape = (view.shape[0] * view.shape[1] * view.shape[2], *view.shape[3:]) if view.dim() > 2 else view.shape
        yield ours, Place(source, tuple(shape), tuple(view.shape), view.stride(), int(view.storage_offset()))


def _conventions(config: ModelConfig) -> list[_Convention]:
    with torch.device("meta"):
        ours = {name: parameter.detach() for name, parameter in GPT(config).named_parameters()}
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    found = [_Convention("megamodel's names", shapes, dict, _TABLE, "lm_head.weight")]
    try:
        family = family_of(config)
    except ModelError:  # a mixture of settings that nobody published has our names only
        return found
    found.append(_hugging_face(family, config, ours))
    if not config.attention_bias and not config.mlp_bias and family.NAME == "llama":
        found.append(_torchtitan(config, shapes))
    return found


def _hugging_face(family: Family, config: ModelConfig, ours: Tensors) -> _Convention:
    theirs = family.weights_to_hf(config, ours)
    table = next(name for name in theirs if name.endswith((_TABLE, "wte.weight")))
    return _Convention(
        f"Hugging Face's {family.NAME} names",
        {name: tuple(tensor.shape) for name, tensor in theirs.items()},
        lambda weights: family.weights_from_hf(config, weights),
        table,
        "lm_head.weight",
    )


_TITAN = {
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _torchtitan(config: ModelConfig, shapes: Mapping[str, Shape]) -> _Convention:
    """Meta's names; its rotary embedding turns neighbouring features, ours turns features half a head apart."""
    theirs = {ours: _titan_name(ours) for ours in shapes}

    def convert(weights: Tensors) -> dict[str, Any]:
        return {
            ours: _halves(weights[name], config.size_per_head)
            if ours.endswith(("q_proj.weight", "k_proj.weight"))
            else weights[name]
            for ours, name in theirs.items()
        }

    expected = {theirs[ours]: shape for ours, shape in shapes.items()}
    return _Convention("torchtitan's names", expected, convert, "tok_embeddings.weight", "output.weight")


def _titan_name(name: str) -> str:
    for ours, titan in _TITAN.items():
        name = name.replace(f"{ours}.weight", f"{titan}.weight")
    return name


def _halves(weight: Tensor, head_dim: int) -> Tensor:
    """[heads * (pairs, 2), D] as a view [heads, 2, pairs, D]; `Place` joins the first three dimensions."""
    return weight.view(-1, head_dim // 2, 2, weight.shape[1]).transpose(1, 2)
