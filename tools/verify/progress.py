"""Which of several long runs is under way: a bar on a terminal, a line for each elsewhere. On stderr."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

T = TypeVar("T")


def shown(items: Sequence[T], describe: Callable[[T], str]) -> Iterator[T]:
    """The items, each announced before it is worked on."""
    if not sys.stderr.isatty():
        for number, item in enumerate(items, 1):
            print(f"{number}/{len(items)} {describe(item)}", file=sys.stderr, flush=True)
            yield item
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(items))
        for item in items:
            bar.update(task, description=describe(item))
            yield item
            bar.advance(task)
