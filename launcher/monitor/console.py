"""One clear line a step."""

import time
from typing import Any

from rich.console import Console


class ConsoleLines:
    """Prints every n-th step, the last, and every validated one, with the time left."""

    def __init__(self, first_step: int, last_step: int, every: int) -> None:
        self.last_step, self.every = last_step, every
        self._done, self._started = first_step - 1, time.monotonic()
        self._resumed_at = self._done
        self._console = Console(highlight=False)

    def write(self, line: dict[str, Any]) -> None:
        """Print the line of a step when it is its turn."""
        self._done = line["step"]
        if self._done % self.every == 0 or self._done == self.last_step or "validation_loss" in line:
            self._console.print(self.text(line), soft_wrap=True)

    def close(self) -> None:
        """Nothing is buffered."""

    def text(self, line: dict[str, Any]) -> str:
        """The line as people read it."""
        width = len(str(self.last_step))
        parts = [f"step {line['step']:>{width}}/{self.last_step}", f"loss {line['loss']:.4f}"]
        if "validation_loss" in line:
            bits = line["validation_bits_per_byte"]
            parts.append(f"validation {line['validation_loss']:.4f} ({bits:.3f} bits/byte)")
        parts += [f"lr {line['lr']:.2e}", f"grad norm {line['grad_norm']:.2f}"]
        parts.append(f"{short(line['tokens_per_second'])} tokens/s")
        if line.get("mfu") is not None:
            parts.append(f"MFU {line['mfu']:.1%}")
        parts.append(f"{line['matmul_share']:.0%} of matmul rate")
        parts.append(f"ETA {self._eta()}")
        return "  ".join(parts)

    def _eta(self) -> str:
        done = max(1, self._done - self._resumed_at)
        return clock((time.monotonic() - self._started) / done * (self.last_step - self._done))


def short(number: float) -> str:
    """A number with three digits and a suffix: 12.3k, 4.56M."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{suffix}"
    return f"{number:.3g}"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
