"""How long each stage took, over all runs that worked at it."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.files import write_atomically


class Timings:
    """Seconds by stage, kept in the work folder."""

    def __init__(self, root: Path) -> None:
        """Go on with what earlier runs noted."""
        self._path = root / "timings.json"
        self.seconds: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError):
            self.seconds = json.loads(self._path.read_bytes())

    @contextlib.contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes, also when it fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start
            with contextlib.suppress(Exception):  # a full disk is told by the work itself
                write_atomically(self._path, json.dumps(self.seconds).encode())
