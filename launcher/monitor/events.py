"""events.jsonl: one line for everything that happens to a run beside its steps."""

import json
import threading
import time
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events; safe to call from several threads. Ranks other than the first give path None: it keeps quiet."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()

    def write(self, event: str, **fields: Any) -> None:
        """Append {"time": seconds since the epoch, "event": event, ...fields}."""
        if self.path is None:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, default=str)
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """All whole lines of an events file; a line cut by a kill is passed over."""
    return read_json_lines(path)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a last line cut by a kill is passed over."""
    if not path.exists():
        return []
    objects = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            objects.append(value)
    return objects
