"""DeepSpeed as a guest: found or missed in a sentence, quiet, and writing nowhere."""

import logging
import os
import sys
import warnings
from contextlib import AbstractContextManager
from datetime import timedelta
from types import ModuleType
from typing import Any

import torch.distributed as dist

from launcher.cluster.ranks import Ranks
from launcher.errors import UserError


def import_deepspeed(ranks: Ranks, timeout: timedelta) -> ModuleType:
    """The package, set up for this rank's device and process group. UserError names the extra when it is missing."""
    deepspeed = load_package(ranks.device.type)
    _share_world(timeout)
    return deepspeed


def load_package(device_type: str) -> ModuleType:
    """The package, for this type of device and without a process group. UserError names the extra if it is missing."""
    os.environ.setdefault("DS_ACCELERATOR", device_type)
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
    return deepspeed


def _share_world(timeout: timedelta) -> None:
    """Make the group that DeepSpeed would clone from all ranks by itself, with torch's timeout instead of the run's."""
    from deepspeed.utils import groups

    if groups._WORLD_GROUP is None:
        groups._WORLD_GROUP = dist.new_group(timeout=timeout)


def sharded_from_birth(json: dict[str, Any]) -> AbstractContextManager[None]:
    """While it lasts, modules that are made keep this rank's part of their parameters only, for ZeRO-3; no values.

    DeepSpeed's own context sends rank 0's values of every parameter to all ranks. Here every rank draws its own part
    afterwards, so what would be sent is not even written: it neither travels nor takes memory.
    """
    from deepspeed import zero

    class Init(zero.Init):
        def _zero_init_param(self, parameter: Any) -> None:
            self._convert_to_deepspeed_param(parameter)
            parameter.partition()

    return Init(config_dict_or_path=json)


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
    return "; ".join(f"{key} is no key that DeepSpeed reads" for key in unread) or None


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
    if not hasattr(error, "errors"):
        return " ".join(str(error).split()) or type(error).__name__
    mistakes = []
    for mistake in error.errors():  # pydantic's
        what = "is no key that DeepSpeed knows" if mistake["type"] == "extra_forbidden" else mistake["msg"]
        mistakes.append(f"{'.'.join(map(str, mistake['loc']))}: {what}")
    return "; ".join(mistakes)
