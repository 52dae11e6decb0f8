"""Measure intervals on the device that does the work, without waiting for it."""

import time

import torch


class Mark:
    """A moment in the device's stream of work; on a CPU, now."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(device))
        self._time = time.perf_counter()

    def wait(self) -> None:
        """Block this thread until the device has come here."""
        if self._event is not None:
            torch.cuda.set_device(self._device)  # of this thread: waiting must not touch another rank's GPU
            self._event.synchronize()

    def seconds_since(self, earlier: "Mark") -> float:
        """Time on the device from `earlier` to here; waits until it has come here."""
        self.wait()
        if self._event is not None and earlier._event is not None:
            return earlier._event.elapsed_time(self._event) / 1e3
        return self._time - earlier._time
