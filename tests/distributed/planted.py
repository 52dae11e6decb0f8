"""Mistakes to put into a layout's code, as people make them; each is called in every rank before it trains."""


def gradients_averaged_twice() -> None:
    """FSDP2 divides by the ranks, though the loss is divided by the global count of tokens already."""
    from torch.distributed.fsdp import FSDPModule

    right = FSDPModule.set_gradient_divide_factor
    FSDPModule.set_gradient_divide_factor = lambda self, factor: right(self, 2 * factor)


def ddp_average_not_undone() -> None:
    """DDP averages over the ranks, and the loss is not multiplied by their number."""
    from launcher.engines.ddp import DdpEngine

    right = DdpEngine._wrap

    def wrong(self):
        module = right(self)
        self.loss_scale = 1.0
        return module

    DdpEngine._wrap = wrong


def norm_gradient_not_reduced() -> None:
    """Under tp each rank has a norm's gradient from its own tokens; that of one norm is not added up."""
    from launcher.engines.fsdp import FsdpEngine

    right = FsdpEngine._sum_shared_gradients

    def wrong(self):
        cuts = self.cuts
        self.cuts = {name: cut for name, cut in cuts.items() if name != "layers.2.input_layernorm.weight"}
        right(self)
        self.cuts = cuts

    FsdpEngine._sum_shared_gradients = wrong


def rotary_counts_from_the_shard() -> None:
    """A context shard numbers its tokens from zero, not from where they stand in the sequence."""
    from launcher.engines.base import Engine

    right = Engine.inputs

    def wrong(self, tokens):
        inputs = right(self, tokens)
        return inputs._replace(positions=inputs.positions - inputs.positions.amin(-1, keepdim=True))

    Engine.inputs = wrong


def clip_counts_copies() -> None:
    """The gradient's norm counts what several ranks hold alike as often as they hold it."""
    from launcher.engines.fsdp import FsdpEngine

    FsdpEngine._counts = lambda self, name, parameter: True


def seed_of_the_rank() -> None:
    """One parameter's weights are drawn from a seed that depends on the rank."""
    import os

    from launcher.engines import torch_engine

    right = torch_engine.initialize

    def wrong(parameters, config, seed):
        right(parameters, config, seed)
        name = "layers.1.mlp.up_proj.weight"
        right({name: parameters[name]} if name in parameters else {}, config, seed + int(os.environ["RANK"]))

    torch_engine.initialize = wrong


def tied_gradient_forgotten() -> None:
    """The pipeline's last stage keeps its copy of the embedding's gradient to itself."""
    from launcher.engines.pipeline import PipelineEngine

    PipelineEngine._sum_tied_gradients = lambda self: None


def decay_by_local_shape() -> None:
    """Weight decay reaches the norms."""
    from megamodel.optim import adamw

    adamw.decays = lambda name, dimensions: True


def last_micro_batch_lost() -> None:
    """One micro-batch of the step is not computed."""
    from launcher.engines.torch_engine import TorchEngine

    right = TorchEngine._forward_backward
    TorchEngine._forward_backward = lambda self, batches, tokens: right(self, batches[:-1], tokens)


def everyone_reads_the_first_share() -> None:
    """All data ranks read the samples of the first."""
    from megamodel.parallel.mesh import Layout

    Layout.data_rank = lambda self, rank: 0
