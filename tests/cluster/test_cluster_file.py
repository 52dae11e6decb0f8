"""What a cluster file may say, and what is told of one that says something else."""

from pathlib import Path

import pytest

from launcher.cluster_config import ClusterConfig
from launcher.errors import UserError
from launcher.yaml_config import load

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: pbs", "kind: must be one of slurm"),
        ("kind: slurm\naccount: a b", "account: must be a name without spaces"),
        ("kind: slurm\ndata: {time: 1h}", "data.time: must be minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS"),
        ("kind: slurm\ndata: {memory: 4GB}", "data.memory: must be a number with K, M, G or T, such as 4G"),
        ("kind: slurm\ndata: {mem: 4G}", "data.mem: is other software's name; here it is data.memory"),
        ("kind: slurm\ndata: {options: [-x]}", "data.options.0: must be a long option of sbatch"),
        ("kind: slurm\ndata: {options: [--array=1]}", "data.options.0: --array is set by megamodel"),
        ("kind: slurm\ndata: {workers: 0}", "data.workers: must be greater than 0"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, text: str, told: str):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=r"c\.yaml:\d") as raised:
        load(tmp_path / "c.yaml", ClusterConfig)
    assert told in str(raised.value)


@pytest.mark.parametrize("time", ["90", "12:00:00", "1-0", "2-12:30"])
def test_numbers_and_times_need_no_quotes(tmp_path: Path, time: str):
    (tmp_path / "c.yaml").write_text(f"kind: slurm\ndata: {{time: {time}, memory: 4096}}")
    jobs = load(tmp_path / "c.yaml", ClusterConfig).value.data
    assert (jobs.time, jobs.memory) == (time, "4096")


def test_the_example_says_what_is_the_default():
    example = load(ROOT / "configs/clusters/slurm.yaml", ClusterConfig).value
    default = ClusterConfig(kind="slurm")
    assert example == default.model_copy(update={"data": default.data.model_copy(update={"time": example.data.time})})
