"""What turns a batch into an update: one small interface, one engine a file."""

from launcher.engines.base import Engine, StepOutput
from launcher.engines.build import ENGINES, build_engine

__all__ = ["ENGINES", "Engine", "StepOutput", "build_engine"]
