"""What the process that starts ranks and the ranks agree on. Light to import."""

import os
from collections.abc import Sequence

RENDEZVOUS = "MEGAMODEL_RENDEZVOUS"
"""Environment variable with torch's init method; without it torchrun's own variables count."""

LOST_OTHERS = 75
"""Exit code of a rank that ends because another one is gone: not the one to blame (EX_TEMPFAIL of sysexits.h)."""


def is_rank() -> bool:
    """True when a launcher (ours, torchrun, deepspeed, srun) started this process as one of several.

    What deepspeed and srun call otherwise gets the names that torchrun gives it; under srun MASTER_ADDR must be set, to
    the first node's name.
    """
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ and "MASTER_ADDR" in os.environ:
        for name, slurm in (("RANK", "SLURM_PROCID"), ("WORLD_SIZE", "SLURM_NTASKS"), ("LOCAL_RANK", "SLURM_LOCALID")):
            os.environ[name] = os.environ[slurm]
        os.environ.setdefault("MASTER_PORT", "29500")
    if "RANK" in os.environ and "LOCAL_SIZE" in os.environ:
        os.environ.setdefault("LOCAL_WORLD_SIZE", os.environ["LOCAL_SIZE"])
    return "RANK" in os.environ


def own_arguments(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments without --local_rank=N, which deepspeed puts before them though LOCAL_RANK says the same."""
    return arguments[1:] if arguments and arguments[0].startswith("--local_rank=") else arguments
