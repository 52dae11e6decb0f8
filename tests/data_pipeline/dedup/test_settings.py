"""Bands that cannot find what the threshold asks for are refused, with those that can."""

import re

import pytest
from pydantic import ValidationError

from data_pipeline.dedup.settings import NearDuplicates


def test_bands_that_miss_the_threshold_are_refused_with_a_remedy():
    with pytest.raises(ValidationError, match=r"compare only 5%; set rows: \d, or more bands") as refused:
        NearDuplicates(threshold=0.5)
    rows = int(re.search(r"rows: (\d)", str(refused.value))[1])
    assert NearDuplicates(threshold=0.5, rows=rows).compared(0.5) >= 0.9
    with pytest.raises(ValidationError, match="fewer rows and more bands than 2"):
        NearDuplicates(threshold=0.5, bands=2)


@pytest.mark.parametrize("threshold", [0.7, 0.75, 0.8, 0.9, 1.0])
def test_the_default_bands_serve_usual_thresholds(threshold: float):
    assert NearDuplicates(threshold=threshold).compared(threshold) > 0.5
