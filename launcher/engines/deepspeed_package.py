"""DeepSpeed as a guest: found or missed in a sentence, quiet, and writing nowhere."""

import logging
import os
import sys
import warnings
from datetime import timedelta
from types import ModuleType
from typing import Any

import torch.distributed as dist

from launcher.cluster.ranks import Ranks
from launcher.errors import UserError


def import_deepspeed(ranks: Ranks, timeout: timedelta) -> ModuleType:
    """The package, set up for this rank's device and process group. UserError names the extra when it is missing."""
    os.environ.setdefault("DS_ACCELERATOR", ranks.device.type)
    os.environ.setdefault("LOCAL_RANK", "0")
    try:
        import deepspeed
    except ModuleNotFoundError as error:
        if error.name != "deepspeed":
            raise
        raise UserError(
            "engine.name=deepspeed needs the package deepspeed: pip install 'megamodel[deepspeed]', "
            "or choose another engine"
        ) from None
    # It still calls collectives by the names that torch is about to drop.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    for handler in logging.getLogger("DeepSpeed").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    # Without this DeepSpeed compiles a shared-memory all-reduce into the home folder, for inference on CPUs.
    deepspeed.ops.__compatible_ops__ = {}
    _share_world(timeout)
    return deepspeed


def _share_world(timeout: timedelta) -> None:
    """Make the group that DeepSpeed would clone from all ranks by itself, with torch's timeout instead of the run's."""
    from deepspeed.utils import groups

    if groups._WORLD_GROUP is None:
        groups._WORLD_GROUP = dist.new_group(timeout=timeout)


def require_async_io() -> None:
    """UserError when DeepSpeed cannot build what moves the optimizer's state to a disk and back."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise UserError(
            "engine.deepspeed.offload_optimizer=nvme needs DeepSpeed's async_io, which cannot be built here: install "
            "a C++ compiler and libaio's headers (Debian: libaio-dev), or use offload_optimizer=cpu"
        )


def refusal(json: dict[str, Any], raw: dict[str, Any]) -> str | None:
    """Why DeepSpeed would not take the configuration, or which raw key it would never read; None when all is well."""
    from deepspeed.runtime.config import DeepSpeedConfig

    asked = _Asked(json)
    try:
        DeepSpeedConfig(asked)
    except Exception as error:  # pydantic's, DeepSpeed's own, and bare assertions
        return _in_a_line(error)
    unread = [key for key in raw if key not in asked.keys_read]
    return f"{unread[0]} is no key that DeepSpeed reads" if unread else None


class _Asked(dict[str, Any]):
    """A mapping that remembers which keys were looked for: DeepSpeed ignores those it does not know."""

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        self.keys_read: set[object] = set()

    def get(self, key: Any, default: Any = None) -> Any:
        self.keys_read.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.keys_read.add(key)
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.keys_read.add(key)
        return super().__getitem__(key)


def _in_a_line(error: Exception) -> str:
    if hasattr(error, "errors"):  # pydantic: where and what, without its web address
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return " ".join(str(error).split()) or type(error).__name__
