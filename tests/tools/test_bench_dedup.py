"""The corpus with planted duplicates is what it says, and `bench dedup` finds them in it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from launcher.cli.main import main
from tests.data_pipeline.dedup.stages import similarity, words_shingles
from tools.bench.dedup_corpus import EXACT, NGRAM, SHARES, Corpus


def test_the_planted_copies_are_as_similar_as_they_say():
    corpus = Corpus(2000)
    texts = corpus.texts(0, 2000)
    assert texts[700:720] == corpus.texts(700, 720)
    shingles = [words_shingles(text, NGRAM) for text in texts]
    having: dict = {}
    for place, each in enumerate(shingles):
        for shingle in each:
            having.setdefault(shingle, []).append(place)
    resembling = [{other for shingle in each for other in having[shingle] if other < place} for place, each in
                  enumerate(shingles)]  # fmt: skip
    most = [
        max((similarity(each, shingles[other]) for other in others), default=0.0)
        for each, others in zip(shingles, resembling, strict=True)
    ]
    planted = list(corpus.planted())
    assert [each.similarity for each in planted] == list(SHARES)
    for each in planted:
        np.testing.assert_allclose([most[place] for place in each.later], each.exact, atol=0.01)
        assert (each.exact >= each.similarity).all() and len(each.later) == int(2000 * SHARES[each.similarity])
    copies = {place for each in planted for place in each.later.tolist()}
    assert max(most[place] for place in range(2000) if place not in copies) < 0.1
    exact = planted[0].later.tolist()
    earlier = {" ".join(text.casefold().split()): place for place, text in reversed(list(enumerate(texts)))}
    assert planted[0].similarity == EXACT and all(earlier[" ".join(texts[p].casefold().split())] < p for p in exact)
    assert len({len(text.split()) for text in texts}) > 100 and all(60 <= len(text.split()) <= 200 for text in texts)


def test_what_is_planted_is_found(tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Through the stages of `data prepare`, with two workers and a bound of memory smaller than the corpus."""
    command = ["megamodel", "bench", "dedup", "--documents", "5000", "--workers", "2", "--memory", "1"]
    command += ["--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    found = json.loads(capfd.readouterr().out)
    assert found["exact"] == {"planted": 250, "found": 250, "recall": 1.0, "precision": 1.0}
    assert found["near"]["precision"] == 1.0 and found["near"]["recall"] > 0.96
    for each in found["classes"]:
        share, theory = each["dropped"] / each["planted"], each["expected"]
        assert abs(share - theory) <= 4 * (theory * (1 - theory) / each["planted"]) ** 0.5 + 0.01
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert list(stages) == ["scan", "clean", "exact", "united", "candidates", "confirm"]
    assert all(stage["peak_bytes"] > 10**7 and stage["seconds"] > 0 for stage in stages.values())
    assert all(rate > 1 for rate in found["hashing"].values())
    assert found["command"] == " ".join(command)
    assert list(tmp_path.iterdir()) == []
