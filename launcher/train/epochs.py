"""How often each source has been read."""

from data_pipeline.mixture import Mixture
from launcher.config import RunConfig
from launcher.mixtures import mixture_labels
from launcher.monitor.events import EventLog


class Epochs:
    """Counts the epochs of each source of the training mixture, and writes an event when one begins another."""

    def __init__(self, config: RunConfig, mixture: Mixture, events: EventLog) -> None:
        self.mixture, self.batch, self.events = mixture, config.train.global_batch_size, events
        self.labels = mixture_labels(config, mixture)

    def after(self, step: int) -> dict[str, float]:
        """How often each source has been read after a step: 1.25 is once and a quarter."""
        read = self.mixture.epochs_after(step * self.batch)
        return {label: round(epochs, 6) for label, epochs in zip(self.labels, read, strict=True)}

    def report(self, step: int) -> None:
        """Write an event for each source of which this step draws the first sample of an epoch after its first."""
        before, now = (
            self.mixture.segments.counts(samples) for samples in ((step - 1) * self.batch, step * self.batch)
        )
        for source, windows in enumerate(self.mixture.num_windows):
            epoch = (now[source] - 1) // windows
            if epoch > 0 and before[source] <= epoch * windows:
                self.events.write("epoch", step=step, source=self.labels[source], epoch=epoch + 1)
