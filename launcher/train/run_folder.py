"""The folder that a run leaves: what is where. Light to import, for the tools that only look."""

from dataclasses import dataclass
from pathlib import Path

from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.yaml_config import load


@dataclass(frozen=True)
class RunFolder:
    """Names of the files in a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One line a step."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """One line for everything else that happened."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def tokenizer(self) -> Path:
        """A copy of the tokenizer, so that the run is whole without its data."""
        return self.path / "tokenizer"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's files."""
        return self.path / "tensorboard"

    @property
    def logs(self) -> Path:
        """Output of the ranks other than the first."""
        return self.path / "logs"


def load_config(run_dir: Path | str) -> RunConfig:
    """The configuration that a run was started with; UserError when the folder is not a run's."""
    folder = RunFolder(Path(run_dir))
    if not folder.config.is_file():
        raise UserError(f"{run_dir} is not a run folder: it has no config.yaml. Give the run_dir of a training run.")
    return load(folder.config, RunConfig).value
