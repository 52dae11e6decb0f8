"""Is the data that lies there now the data that the run saw?"""

import json
from pathlib import Path

from data_pipeline.mixture import Loader, Mixture, samples_digest
from launcher.errors import CheckFailed
from launcher.monitor.events import read_json_lines
from launcher.train.data_order import in_words, mixture_record, past
from launcher.train.run_folder import RunFolder

_REMEDY = "bring the data back as it was (`data prepare` from the same files and settings makes the same bytes)."


def check_same_data(run: Path, mixture: Mixture, global_batch_size: int, step: int | None = None) -> None:
    """Compare the data with what the run recorded; CheckFailed when a source is not what the run was trained on.

    The newest checkpoint knows each source's digest; the metrics know the digest of the samples of `step`, or of the
    last step. A run that has recorded neither passes.
    """
    folder = RunFolder(run)
    _check_mixture(folder, mixture, global_batch_size)
    digests = {
        line["step"]: line["samples_digest"]
        for line in read_json_lines(folder.metrics)
        if isinstance(line, dict) and line.keys() >= {"step", "samples_digest"}
    }
    if not digests:
        return
    known: int = step if step is not None and step in digests else max(digests)
    if samples_digest(Loader(mixture, global_batch_size).samples(known)) != digests[known]:
        names = ", ".join(str(shards.prefix) for shards in mixture.sources)
        raise CheckFailed(
            f"the run saw other samples in step {known} ({folder.metrics}) than its data gives now: {names} or the "
            f"run's config.yaml changed since; {_REMEDY}"
        )


def _check_mixture(folder: RunFolder, mixture: Mixture, global_batch_size: int) -> None:
    """Compare with `data_order` of the newest checkpoint; read as JSON, so that torch is not needed."""
    manifests = sorted(
        folder.checkpoints.glob("step_*[0-9]/manifest.json"), key=lambda path: (len(path.parent.name), path)
    )
    if not manifests:
        return
    samples = int(manifests[-1].parent.name.removeprefix("step_")) * global_batch_size
    try:
        recorded = past(json.loads(manifests[-1].read_bytes())["manifest"]["data_order"], samples)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckFailed(
            f"{manifests[-1]} cannot be read ({error!r}), so nothing says which data the run saw; "
            f"`megamodel checkpoint verify {manifests[-1].parent}` tells more."
        ) from error
    now = past({"segments": mixture_record(mixture)}, samples)
    if now == recorded:
        return
    names = {shards.digest: str(shards.prefix) for shards in mixture.sources}
    raise CheckFailed(
        f"the data is not what the run was trained on up to the checkpoint {manifests[-1].parent.name}: that was "
        f"{in_words(recorded, mixture.seq_len, names)}; the run's config.yaml and its shard sets make it now "
        f"{in_words(now, mixture.seq_len, names)}; {_REMEDY}"
    )
