"""Documents that evaluation data is in."""

import csv
import gzip
import json
import random
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.clean import Rejected
from data_pipeline.dedup.decontaminate import Decontaminator
from data_pipeline.dedup.settings import Decontaminate
from data_pipeline.errors import DataError
from data_pipeline.read import Document

QUESTION = "Which of the seven rivers that cross the old province carries the most water to the northern sea in spring?"
RNG = random.Random(1)
FILLER = " ".join("".join(RNG.choices("abcdefgh", k=5)) for _ in range(300))


def decontaminator(*files: object, **told) -> Decontaminator:
    return Decontaminator(Decontaminate(files=[str(file) for file in files], **told))


def found(check: Decontaminator, text: str) -> str | None:
    result = check(Document(text, "f", 0))
    return result.reason if isinstance(result, Rejected) else None


@pytest.fixture
def evaluation(tmp_path):
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps({"id": 1, "item": {"stem": QUESTION, "choices": ["The Ems", "yes"]}}) + "\n")
    return path


def test_a_document_with_a_long_part_of_a_question_goes(evaluation):
    check = decontaminator(evaluation)
    words = QUESTION.split()
    assert found(check, f"{FILLER} {QUESTION} {FILLER}") == f"text of {evaluation}"
    for first in range(len(words) - 12):
        part = " ".join(words[first : first + 13])
        assert found(check, f"{FILLER} {part} {FILLER}") and found(check, part)
        assert found(check, " ".join(words[first : first + 12])) is None
    assert found(check, FILLER) is None and found(check, "") is None
    assert found(check, "The Ems, yes") is None


def test_neither_case_nor_marks_nor_breaks_hide_it(evaluation):
    check = decontaminator(evaluation)
    shouted = QUESTION.upper().replace(" ", " --\n* ")
    assert found(check, shouted)
    accents = evaluation.with_name("accents.txt")
    accents.write_text("Où était-il allé chercher la clé égarée près du vieux château oublié là-bas?")
    check = decontaminator(accents)
    for form in ("NFC", "NFD"):
        assert found(check, unicodedata.normalize(form, f"x {accents.read_text()} y"))


def test_short_texts_count_as_a_whole(tmp_path):
    path = tmp_path / "short.jsonl"
    nine, seven = "one small step for a man on the moon", "the quick brown fox jumps over dogs"
    path.write_text(json.dumps([nine, seven, "in a list of their own"]) + "\n")
    check = decontaminator(path)
    assert found(check, f"{FILLER} {nine} {FILLER}")
    assert found(check, f"{FILLER} {nine[:-5]} {FILLER}") is None
    assert found(check, seven) is None
    assert found(decontaminator(path, shortest=7), seven)
    assert found(decontaminator(path, ngram=3), "he saw a brown fox jumps there")


def test_chinese_by_its_characters(tmp_path):
    path = tmp_path / "zh.jsonl"
    path.write_text(json.dumps({"问题": "下列哪一条河流在春季向北方的大海输送的水量最多？"}, ensure_ascii=False))
    check = decontaminator(path)
    assert found(check, "有人问道：哪一条河流，在春季向北方的大海输送——你知道吗")
    assert found(check, "哪一条河流，在春季向南方的大海输送——你知道吗") is None


def test_every_format_gives_all_of_its_texts(tmp_path):
    record = {"number": 1, "question": QUESTION, "answers": ["no", FILLER[:200]]}
    lines = (json.dumps(record) + "\n").encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\n" + lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.json.zst").write_bytes(zstandard.compress(json.dumps({"data": [record]}).encode()))
    pq.write_table(pa.Table.from_pylist([record] * 3), tmp_path / "d.parquet")
    for name, delimiter in (("e.csv", ","), ("f.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([["q", "a"], [QUESTION, FILLER[:200] + ', "so"\n']])
    (tmp_path / "g.txt").write_text(f"{QUESTION}\n{FILLER[:200]}")
    for path in sorted(tmp_path.iterdir()):
        check = decontaminator(path)
        for text in (QUESTION, FILLER[:200]):
            assert found(check, f"It says: {text}") == f"text of {path}", path.name
        assert found(check, FILLER[300:]) is None


def test_the_first_file_is_named_and_a_folder_stands_for_its_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"{QUESTION} {FILLER[:100] if name == 'two' else ''}")
    check = decontaminator(tmp_path)
    assert found(check, QUESTION) == f"text of {tmp_path / 'one.txt'}"
    assert found(check, FILLER[:100]) == f"text of {tmp_path / 'two.txt'}"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"x": "fine"}\n{"x": ', "line 2: not valid JSON"),
        ("a.json", b"[1,", "not valid JSON"),
        ("a.jsonl.gz", b"\x1f\x8b\x08junk", "a.jsonl.gz"),
        ("a.parquet", b"PAR1 nothing", "a.parquet"),
        ("a.txt", b"\xff\xfe\xfa", "a.txt"),
        ("a.csv", b"a\n\xff\xfe", "a.csv"),
        ("a.jsonl", b'{"x": "too short"}', "no text of 8 units or more"),
        ("a.jsonl", b"", "no text of 8 units or more"),
        ("a.exe", b"x", "no reader"),
    ],
)
def test_evaluation_data_that_cannot_be_used_ends_the_run(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        decontaminator(tmp_path / name)
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        decontaminator(tmp_path / "nowhere.jsonl")


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=24)


@given(st.lists(WORDS, min_size=1, max_size=4), WORDS, st.integers(1, 6), st.integers(1, 6))
def test_the_rule_itself(tmp_path_factory, texts, words, ngram, shortest):
    wanted = set()
    for text in texts:
        length = min(ngram, len(text))
        if length >= min(shortest, ngram):
            wanted |= {tuple(text[i : i + length]) for i in range(len(text) - length + 1)}
    path = tmp_path_factory.mktemp("rule") / "e.jsonl"
    path.write_text("\n".join(json.dumps(" ".join(text)) for text in texts))
    if not wanted:
        with pytest.raises(DataError):
            decontaminator(path, ngram=ngram, shortest=shortest)
        return
    grams = {tuple(words[i : i + n]) for n in range(1, 7) for i in range(len(words) - n + 1)}
    check = decontaminator(path, ngram=ngram, shortest=shortest)
    assert (found(check, " ".join(words)) is not None) == bool(grams & wanted)
