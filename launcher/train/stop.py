"""Stopping at a signal, at the same step on every rank."""

import signal
import time

import torch
import torch.distributed as dist

_SAME_SIGNAL_SECONDS = 3.0


class StopSignal:
    """Turns what one rank knows (SIGTERM or SIGINT came; its numbers are bad) into one decision of all ranks.

    Each step sums the ranks' flags in the background and the next step looks at the sum, so all ranks see the same
    answer at the same step and none waits for it. Another signal some seconds later ends the process at once; one
    soon after is the same one, since a scheduler signals every process and the one that started this rank passes it on.
    """

    def __init__(self) -> None:
        self._received = False
        self._since = 0.0
        self._sum = torch.zeros(2, dtype=torch.int64)
        self._work: dist.Work | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: object) -> None:
        if self._received and time.monotonic() - self._since > _SAME_SIGNAL_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self._received:
            self._since = time.monotonic()
            self._received = True

    def agreed(self, unhealthy: bool) -> tuple[bool, bool]:
        """Whether some rank had received a signal, and whether some was unhealthy, by the previous call.

        The same on every rank.
        """
        flags = torch.tensor([int(self._received), int(unhealthy)])
        if not (dist.is_initialized() and dist.get_world_size() > 1):
            return bool(flags[0]), bool(flags[1])
        if self._work is not None:
            self._work.wait()
        answer = self._sum
        self._sum, self._work = flags, dist.all_reduce(flags, async_op=True)
        return bool(answer[0]), bool(answer[1])
