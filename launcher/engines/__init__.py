"""What turns a batch into an update: one small interface, one engine a file."""

from launcher.engines.base import Engine, StepOutput
from launcher.engines.build import build_engine

__all__ = ["Engine", "StepOutput", "build_engine"]
