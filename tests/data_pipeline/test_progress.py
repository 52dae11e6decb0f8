"""Progress on a terminal and in lines."""

import io
import time

import pytest
from rich.console import Console

from data_pipeline.progress import _bar, _Lines


@pytest.mark.parametrize(
    ("unit", "amount", "rate"), [("tasks", "20/100 tasks ", "/s "), ("bytes", "20/100 bytes", "B/s")]
)
def test_a_bar_shows_amount_and_rate_whatever_it_counts(unit: str, amount: str, rate: str):
    bar = _bar(unit)
    task = bar.add_task("comparing", total=100)
    for _ in range(2):
        bar.advance(task, 10)
    console = Console(file=io.StringIO(), width=160)
    console.print(bar.make_tasks_table(bar.tasks))
    shown = console.file.getvalue()
    assert "comparing" in shown and amount in shown.replace("  ", " ") and rate in shown


def test_the_rate_of_a_run_that_goes_on_is_its_own(capsys: pytest.CaptureFixture[str]):
    lines = _Lines("comparing", 1000, "tasks", before=900)
    lines._start = lines._last = time.monotonic() - 100
    lines(10)
    assert capsys.readouterr().err == "comparing: 91%, 0.1 tasks/s, 900 s left\n"
