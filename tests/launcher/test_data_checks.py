"""What `config check` says of a changing mixture and of what is left out; on real shard sets."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from data_pipeline.execute.tokenize import tokenize
from data_pipeline.tokenizer import Tokenizer
from launcher.config import RunConfig
from launcher.data_checks import data_problems
from launcher.errors import UserError
from launcher.mixtures import training_mixture
from launcher.physics import check_run
from launcher.yaml_config import load
from tests.conftest import write_run

TOKENS = 20 * 8 * 32
"""In the whole run."""


@pytest.fixture(scope="module")
def sets(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small`, `large` (five times the documents, each twice as long) and `more/small`."""
    folder = tmp_path_factory.mktemp("sets")
    tokenizer = Tokenizer.load(tiny_data / "tokenizer")
    for name, count, length in (("small", 2, 500), ("large", 10, 1000), ("more/small", 3, 700)):
        rows = [{"text": f"{n}" + "x y " * length} for n in range(count)]
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        tokenize([path], tokenizer, folder / name)
    return folder


@pytest.fixture
def told(sets: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., dict[str, list[str]]]:
    """A function from settings of data to {severity: ["setting: message", ...]}."""

    def check(**data: object) -> dict[str, list[str]]:
        listed = [{"path": str(sets / name)} for name in ("small", "large")]
        config = load(write_run(tiny_data, tmp_path, data={"sources": listed, **data}), RunConfig).value
        found: dict[str, list[str]] = {"error": [], "note": []}
        for problem in data_problems(config):
            found[problem.severity].append(f"{problem.setting}: {problem.message}")
        return found

    return check


def segment(token: int, **settings: object) -> dict[str, object]:
    return {"from_token": token, "weights": {"small": 1}, **settings}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"segments": [segment(100), segment(100)]}, "data.segments.1.from_token: 100 is not after the segment before"),
        ({"segments": [segment(900), segment(100)]}, "data.segments.1.from_token: 100 is not after"),
        ({"segments": [segment(40), segment(50)]}, "data.segments.1.from_token: 50 begins with the same sequence"),
        ({"segments": [segment(0, weights={"smal": 1})]}, "data.segments.0.weights: 'smal' is none of data.sources"),
        ({"segments": [segment(0, weights={"small": 0})]}, "data.segments.0.weights: no source has a weight above 0"),
        ({"segments": [segment(0, weights={})]}, "data.segments.0.weights: no source has a weight above 0"),
        ({"skip": {"numbers": {"small": [2]}}}, "data.skip.numbers: there is no document 2 in small, whose documents"),
        ({"skip": {"numbers": {"nothing": [2]}}}, "data.skip.numbers: 'nothing' is none of data.sources, which are"),
        ({"skip": {"documents_file": "/nowhere"}}, "data.skip.documents_file: there is no file /nowhere"),
    ],
    ids=str,
)
def test_mistakes(told: Callable[..., dict[str, list[str]]], data: dict, expected: str):
    assert [message for message in told(**data)["error"] if not message.startswith(expected)] == []
    assert told(**data)["error"]


def test_weights_that_are_all_zero(told: Callable[..., dict[str, list[str]]], sets: Path):
    sources = [{"path": str(sets / "small"), "weight": 0}, {"path": str(sets / "large"), "weight": 0}]
    assert told(sources=sources)["error"] == [
        "data.sources: no source has a weight above 0; give one, or let data.segments begin at token 0"
    ]
    assert told(sources=sources, segments=[segment(0)])["error"] == []
    assert told(validation=sources)["error"] == ["data.validation: no set has a weight above 0; give one"]


def test_names_are_one_sources_each(told: Callable[..., dict[str, list[str]]], sets: Path):
    sources = [{"path": str(sets / "small")}, {"path": str(sets / "more" / "small")}]
    (message,) = told(sources=sources, segments=[segment(0)])["error"]
    assert message == "data.segments.0.weights: 'small' is 2 of data.sources; give each a name of its own"
    by_path = segment(0, weights={str(sets / "small"): 1, str(sets / "more" / "small"): 2})
    assert told(sources=sources, segments=[by_path])["error"] == []
    named = [{**source, "name": name} for source, name in zip(sources, ("one", "two"), strict=True)]
    assert told(sources=named, segments=[segment(0, weights={"one": 1, "two": 2})])["error"] == []
    twice = segment(0, weights={"one": 1, str(sets / "small"): 2})
    assert "are the same source" in told(sources=named, segments=[twice])["error"][0]
    same = [{**source, "name": "one"} for source in sources]
    assert "data.sources.0.name: 'one' is the name of 2 sources; change one" in told(sources=same)["error"]


def epochs(told: dict[str, list[str]]) -> list[float]:
    found = [note for note in told["note"] if note.startswith("data.sources")]
    return [
        float(note.split("reads ")[1].split("%")[0]) / 100 if "%" in note else float(note.split("them ")[1].split()[0])
        for note in found
    ]


def test_epochs_are_told_over_all_segments(told: Callable[..., dict[str, list[str]]], sets: Path, tiny_data: Path):
    tokens = [json.loads((sets / f"{name}.manifest.json").read_text())["num_tokens"] for name in ("small", "large")]
    half = segment(TOKENS // 2)
    small, large = epochs(told(segments=[half]))
    assert small == pytest.approx(0.75 * TOKENS / tokens[0], rel=0.02)
    assert large == pytest.approx(0.25 * TOKENS / tokens[1], rel=0.02)


def test_the_epochs_told_are_those_that_will_be_counted(
    told: Callable[..., dict[str, list[str]]], sets: Path, tmp_path: Path
):
    """To the last sample, in whatever order the sources are given."""
    later = [segment(352 * n, weights={"small": 1 + n % 2, "large": 2 - n % 2}) for n in range(1, 15)]
    for names in (("small", "large"), ("large", "small")):
        found = epochs(told(segments=later, sources=[{"path": str(sets / name)} for name in names]))
        mixture = training_mixture(load(tmp_path / "run.yaml", RunConfig).value)
        counted = dict(zip((s.prefix.name for s in mixture.sources), mixture.epochs_after(20 * 8), strict=True))
        assert dict(zip(names, found, strict=True)) == pytest.approx(counted, abs=0.006)


def test_weightings_decide_the_epochs(told: Callable[..., dict[str, list[str]]], sets: Path):
    tokens = [json.loads((sets / f"{name}.manifest.json").read_text())["num_tokens"] for name in ("small", "large")]
    small, large = epochs(told(weighting={"kind": "temperature", "temperature": 1.0}))
    assert small == pytest.approx(large, rel=0.05)
    small, large = epochs(told(weighting={"kind": "temperature", "temperature": 1.0, "size": "documents"}))
    assert small * tokens[0] / (large * tokens[1]) == pytest.approx(2 / 10, rel=0.05)
    small, large = epochs(told(weighting={"kind": "documents"}))
    assert small * tokens[0] / (large * tokens[1]) == pytest.approx(1 / 2, rel=0.05)


def test_what_is_worth_knowing(told: Callable[..., dict[str, list[str]]], sets: Path):
    late = told(segments=[segment(TOKENS)])
    assert late["error"] == [] and "it never comes to this" in " ".join(late["note"])
    assert len(epochs(late)) == 2
    unread = told(sources=[{"path": str(sets / "small")}, {"path": str(sets / "large"), "weight": 0}])
    assert "data.sources.1.path: large has no weight in any segment: this run does not read it" in unread["note"]
    assert "the run's steps are 1 to 20" in " ".join(told(skip={"steps": [7, "20-21"]})["note"])
    tiny = told(segments=[segment(0, weights={"small": 1e-9, "large": 1})])["note"]
    assert any(
        note.startswith("data.segments.0.weights: small: a share of 1e-09 is less than one in 1,048,576")
        for note in tiny
    )


def test_files_of_a_dropped_source_may_be_gone(told: Callable[..., dict[str, list[str]]], tiny_data: Path, sets: Path):
    gone = sets / "gone"
    tokenize([sets / "more" / "small.jsonl"], Tokenizer.load(tiny_data / "tokenizer"), gone)
    (sets / "gone_00000_text_document.bin").unlink()
    sources = [{"path": str(sets / "small")}, {"path": str(gone)}]
    assert "gone_00000_text_document.bin" in told(sources=sources)["error"][0]
    dropped = told(sources=sources, segments=[segment(1000)])
    assert dropped["error"] == []
    assert "The last of data.segments does not draw from it" in " ".join(dropped["note"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.skip.steps=[3-1]", "data.skip.steps.0: must be a number, or two in order such as 1200-1300, not '3-1'"),
        (f"data.skip.steps=['{'9' * 5000}']", "data.skip.steps.0: must be a number, or two in order"),
        ("data.segments=[{from_token: 99999999999999999999999}]", "data.segments.0.from_token: must be less than"),
        ("data.skip.steps=[a]", "data.skip.steps.0: must be a number, or two in order"),
        ("data.skip.numbers={small: [-3]}", "data.skip.numbers.small.0: must be"),
        ("data.segments=[{weights: {small: 1}}]", "data.segments.0.from_token: is required and not set"),
        ("data.segments=[{from_token: 5, weights: {small: -1}}]", "data.segments.0.weights.small: must be greater"),
        ("data.segments=[{from_token: 5, weight: {small: 1}}]", "data.segments.0.weight: is not a setting here"),
        ("data.weighting={kind: explicit}", "data.weighting.kind: must be one of tokens, documents, temperature"),
        ("data.weighting={kind: documents, temperature: 3}", "temperature: belongs to data.weighting.kind=temperature"),
        ("data.weighting={kind: temperature, temperature: 0}", "data.weighting.temperature: must be greater"),
        ("data.curriculum=1", "data.curriculum: is other software's name; here it is data.segments"),
        ("data.sampling_alpha=0.3", "here it is data.weighting.temperature (1 / alpha"),
    ],
)
def test_the_schema_says_what_is_wrong(sets: Path, tiny_data: Path, tmp_path: Path, override: str, expected: str):
    path = write_run(tiny_data, tmp_path, data={"sources": [{"path": str(sets / "small")}]})
    with pytest.raises(UserError) as raised:
        check_run(path, [override], lambda config: [])
    assert expected in str(raised.value)


def test_all_of_it_in_one_file(sets: Path, tiny_data: Path, tmp_path: Path):
    """Mistakes of names hide neither each other nor what is wrong elsewhere."""
    data = {
        "sources": [{"path": str(sets / "small"), "weight": 1}, {"path": str(sets / "nothing"), "weight": 1}],
        "segments": [segment(500, weights={"a": 1}), segment(400, weights={"b": 1})],
    }
    path = write_run(tiny_data, tmp_path, data=data)
    with pytest.raises(UserError, match="4 mistakes") as raised:
        check_run(path, [], lambda config: [])
    lines = yaml.safe_load(path.read_text())["data"]["segments"]
    assert len(lines) == 2 and all(name in str(raised.value) for name in ("'a'", "'b'", "400 is not after", "nothing"))
