"""What steps need to know about a text, found once for all of them while the text stays the same."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data_pipeline import units

_PIECE = 2**18


class View:
    """A text as code points, units and lines; each is computed when it is first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def codepoints(self) -> units.Codepoints:
        """[characters] The code points."""
        return units.codepoints_of(self.text)

    @cached_property
    def categories(self) -> units.Categories:
        """[characters] The category of each, as in data_pipeline.units."""
        return units.categories_of(self.codepoints)

    @cached_property
    def counts(self) -> list[int]:
        """[categories] How many characters there are of each category."""
        counts = np.zeros(units.CATEGORIES, np.int64)
        for first in range(0, len(self.categories), _PIECE):  # bincount makes eight bytes of each
            counts += np.bincount(self.categories[first : first + _PIECE], minlength=units.CATEGORIES)
        return counts.tolist()

    @cached_property
    def spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[units] Where each unit starts, and [units] where it ends."""
        return units.unit_starts_ends(self.codepoints, self.categories)

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """[units] The hash of each unit."""
        return units.unit_hashes(self.codepoints, *self.spans)

    @cached_property
    def folded_hashes(self) -> NDArray[np.uint64]:
        """[units] The hash of each unit, upper and lower case being the same."""
        return units.unit_hashes(units.fold(self.codepoints), *self.spans)

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank, without white space around them."""
        return [line for line in map(str.strip, self.text.splitlines()) if line]

    @property
    def num_units(self) -> int:
        """Number of units."""
        return len(self.spans[0])

    def share(self, *categories: int) -> float:
        """Share of these categories among the characters that are not white space; 0 when there are none."""
        seen = len(self.text) - self.counts[units.SPACE]
        return sum(self.counts[category] for category in categories) / seen if seen else 0.0


_last = View("")


def view_of(text: str) -> View:
    """The view of this text: the same as before when it is the very text that was asked for last."""
    global _last
    view = _last
    if view.text is not text:
        _last = view = View(text)
    return view
