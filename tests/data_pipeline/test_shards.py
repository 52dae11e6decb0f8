"""What is written is what is read; whatever changes afterwards is found and named."""

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.execute import tokenize
from data_pipeline.read import read_documents
from data_pipeline.shards import ShardSet, ShardWriter, describe_sources, verify
from data_pipeline.shards.manifest import dtype_for
from data_pipeline.tokenizer import Tokenizer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def expected(corpus: Path, tokenizer: Tokenizer) -> list[np.ndarray]:
    """The ids of each document with its end, straight from the tokenizer."""
    texts = [document.text for document in read_documents([corpus])]
    return [np.append(ids, tokenizer.eos_id) for ids in tokenizer.encode_batch(texts)]


def test_the_tokens_are_the_documents_one_after_another(shards: ShardSet, expected: list[np.ndarray]):
    everything = np.concatenate(expected)
    np.testing.assert_array_equal(shards.read(0, shards.num_tokens), everything)
    assert shards.num_tokens == len(everything)
    assert shards.manifest.num_documents == shards.manifest.num_eos_tokens == len(expected)
    assert verify(shards.prefix) == []


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_span_reads_the_same_across_shards(session_shards: ShardSet, data: st.DataObject):
    everything = session_shards.read(0, session_shards.num_tokens)
    start = data.draw(st.integers(0, len(everything) - 1))
    length = data.draw(st.integers(1, len(everything) - start))
    np.testing.assert_array_equal(session_shards.read(start, length), everything[start : start + length])
    spans = session_shards.documents_in(start, length)
    assert spans[0].first <= start < spans[0].end
    assert spans[-1].first < start + length <= spans[-1].end
    assert all(one.end == other.first for one, other in pairwise(spans))
    ends = np.flatnonzero(everything == session_shards.manifest.eos_id) + 1
    assert all(span.end == ends[span.document] for span in spans)


@pytest.fixture(scope="module")
def session_shards(corpus: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    prefix = tmp_path_factory.mktemp("spans") / "set"
    tokenize([corpus], tokenizer, prefix, tokens_per_shard=10_000)
    return ShardSet.open(prefix)


@pytest.mark.parametrize(("start", "length"), [(-1, 5), (0, 10**9), (10**9, 1)])
def test_reading_outside_is_refused(session_shards: ShardSet, start: int, length: int):
    with pytest.raises(ValueError, match="outside"):
        session_shards.read(start, length)


def test_each_document_knows_where_it_came_from(shards: ShardSet, corpus: Path, tokenizer: Tokenizer):
    documents = list(read_documents([corpus]))
    for number in (0, 17, len(documents) - 1):
        origin = shards.provenance(number)
        assert (origin.source, origin.position, origin.offset) == (str(corpus), number, documents[number].offset)
        span = shards.document_span(number)
        assert tokenizer.decode(shards.read(span.first, span.end - span.first - 1)) == documents[number].text
        assert shards.find_documents(documents[number].id) == [number]
        assert shards.find_records(corpus.name, number) == [number]
    assert shards.find_documents("nobody") == shards.find_records(corpus.name, 999) == []


def test_the_manifest_counts_what_is_there(shards: ShardSet, corpus: Path, tokenizer: Tokenizer):
    manifest = shards.manifest
    assert manifest.text_bytes == sum(len(d.text.encode()) for d in read_documents([corpus]))
    lengths = tokenizer.token_byte_lengths()
    assert lengths[shards.read(0, shards.num_tokens)].sum() == manifest.text_bytes
    assert manifest.tokenizer_sha256 == tokenizer.digest
    assert manifest.sources[0].sha256 == hashlib.sha256(corpus.read_bytes()).hexdigest()
    assert all(shard.num_tokens <= 10_000 for shard in manifest.shards)


def test_the_same_input_gives_the_same_bytes(shards: ShardSet, corpus: Path, tokenizer: Tokenizer, tmp_path: Path):
    code = (
        "import sys; from data_pipeline.execute import tokenize; from data_pipeline.tokenizer import Tokenizer;"
        "tokenize([sys.argv[1]], Tokenizer.load(sys.argv[2]), sys.argv[3], tokens_per_shard=10_000)"
    )
    tokenizer.save(tmp_path / "tokenizer")
    for threads in ("1", "3"):
        (tmp_path / threads).mkdir()
        arguments = [str(corpus), str(tmp_path / "tokenizer"), str(tmp_path / threads / "set")]
        environment = {**os.environ, "RAYON_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True)
        for name in names(tmp_path / threads):
            assert (tmp_path / threads / name).read_bytes() == (tmp_path / name).read_bytes()
        assert len(names(tmp_path / threads)) == 1 + 3 * len(shards.manifest.shards)


def test_the_identity_is_of_the_tokens_not_of_the_path(shards: ShardSet, corpus: Path, tokenizer: Tokenizer, tmp_path):
    again = tmp_path / "elsewhere"
    tokenize([corpus], tokenizer, again / "other", tokens_per_shard=10_000)
    assert ShardSet.open(again / "other").digest == shards.digest
    tokenize([corpus], tokenizer, again / "half", tokens_per_shard=5_000)
    assert ShardSet.open(again / "half").digest != shards.digest


def test_two_bytes_below_65500_words_and_four_from_there():
    assert (dtype_for(65_499), dtype_for(65_500)) == ("uint16", "int32")


def test_four_byte_ids(corpus: Path, tokenizer: Tokenizer, tmp_path: Path):
    document = json.loads((save(tokenizer, tmp_path / "small") / "tokenizer.json").read_text())
    document["model"]["vocab"].update({f"unused{n}": n for n in range(600, 70_000)})
    large = Tokenizer(json.dumps(document).encode(), {"eos_token": "<|endoftext|>"})
    manifest = tokenize([corpus], large, tmp_path / "large")
    assert (manifest.vocab_size, manifest.dtype) == (70_000, "int32")
    small = tokenize([corpus], tokenizer, tmp_path / "set")
    one, other = ShardSet.open(tmp_path / "large"), ShardSet.open(tmp_path / "set")
    np.testing.assert_array_equal(one.read(0, one.num_tokens), other.read(0, small.num_tokens))
    assert verify(tmp_path / "large") == []


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    tokenizer.save(folder)
    return folder


def change(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


FILES = ["set_00001_text_document.bin", "set_00001_text_document.idx", "set_00001_documents.npy"]


@pytest.mark.parametrize("name", FILES)
def test_verify_finds_one_flipped_bit(shards: ShardSet, name: str):
    path = shards.prefix.parent / name
    place = path.stat().st_size // 2
    byte = path.read_bytes()[place]
    change(path, place, bytes([byte ^ 1]))
    assert any(name in problem and "sha256" in problem for problem in verify(shards.prefix))
    change(path, place, bytes([byte]))
    assert verify(shards.prefix) == []


@pytest.mark.parametrize("name", FILES)
def test_verify_finds_a_file_cut_short_longer_or_gone(shards: ShardSet, name: str):
    path = shards.prefix.parent / name
    whole = path.read_bytes()
    for content in (whole[:-3], whole[:7], b"", whole + b"\0"):
        path.write_bytes(content)
        assert any(name in p and f"byte {min(len(content), len(whole)):,}" in p for p in verify(shards.prefix))
    path.unlink()
    assert any(name in problem and "No such file" in problem for problem in verify(shards.prefix))


def test_verify_names_the_byte_of_an_id_outside_the_vocabulary(shards: ShardSet):
    change(shards.prefix.parent / FILES[0], 1000, struct.pack("<H", 60_000))
    assert any("60000 at byte 1,000 is outside the vocabulary" in problem for problem in verify(shards.prefix))


def test_verify_names_the_document_whose_end_is_gone(shards: ShardSet):
    last = shards.manifest.shards[1].bin.size - 2
    change(shards.prefix.parent / FILES[0], last, struct.pack("<H", 300))
    assert any(f"ends at byte {last:,} has no end-of-document token" in problem for problem in verify(shards.prefix))


def test_verify_names_boundaries_that_do_not_add_up(shards: ShardSet):
    change(shards.prefix.parent / FILES[1], 34 + 4 * 2, struct.pack("<i", 1))
    assert any("do not add up from document 3" in problem for problem in verify(shards.prefix))


@pytest.mark.parametrize("field", ["num_tokens", "num_documents", "num_eos_tokens", "content_sha256"])
def test_verify_finds_a_manifest_that_does_not_add_up(shards: ShardSet, field: str):
    path = shards.prefix.with_name("set.manifest.json")
    manifest = json.loads(path.read_text())
    manifest[field] = manifest[field] + 1 if isinstance(manifest[field], int) else "0" * 64
    path.write_text(json.dumps(manifest))
    assert any(field in problem for problem in verify(shards.prefix))
    if field in ("num_tokens", "num_documents"):
        with pytest.raises(DataError, match=rf"set\.manifest\.json: {field} is \d+, its shards make it"):
            ShardSet.open(shards.prefix)


def test_verify_finds_any_changed_field_of_the_manifest(shards: ShardSet):
    path = shards.prefix.with_name("set.manifest.json")
    before = json.loads(path.read_text())
    changes = {
        name: value + 1 if isinstance(value, int) else [] if isinstance(value, list) else "changed"
        for name, value in before.items()
        if name not in ("format", "version", "dtype")
    }
    assert {"text_bytes", "num_empty_documents", "id_field", "sources", "shards"} < changes.keys()
    for field, value in changes.items():
        path.write_text(json.dumps({**before, field: value}))
        assert any("set.manifest.json" in problem for problem in verify(shards.prefix)), field
    path.write_text(json.dumps({**before, "shards": []}))
    with pytest.raises(DataError, match="its shards make it 0"):
        ShardSet.open(shards.prefix)
    del before["manifest_sha256"]
    path.write_text(json.dumps(before))
    assert verify(shards.prefix) == []


@pytest.mark.parametrize("cut", [2, None])
def test_a_shard_cut_short_or_gone_is_a_sentence_when_first_touched(shards: ShardSet, cut: int | None):
    path = shards.prefix.parent / FILES[0]
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])
    else:
        path.unlink()
    opened = ShardSet.open(shards.prefix)
    opened.read(0, 100)
    with pytest.raises(DataError, match=FILES[0]):
        opened.read(0, opened.num_tokens)


def test_an_index_that_lies_about_its_size_is_refused(shards: ShardSet):
    change(shards.prefix.parent / FILES[1], 18, struct.pack("<Q", 10**15))
    with pytest.raises(DataError, match="header promises"):
        ShardSet.open(shards.prefix).documents_in(9_999, 2_000)


def test_a_search_for_documents_in_any_index_ends_and_never_lies(shards: ShardSet):
    """Document indexes that jump back and forth: every document found holds the place that was looked for, or none."""
    count = shards.manifest.shards[1].num_documents
    first = shards.manifest.shards[0].num_tokens
    end = first + shards.manifest.shards[1].num_tokens
    generator, refused = np.random.default_rng(0), 0
    for _ in range(200):
        jumps = generator.integers(0, count + 1, count + 1)
        change(shards.prefix.parent / FILES[1], 34 + 12 * count, jumps.astype("<i8").tobytes())
        try:
            spans = ShardSet.open(shards.prefix).documents_in(first, end - first)
        except DataError as error:
            assert f"{FILES[1]} or" in str(error) and "is damaged at document" in str(error)
            refused += 1
        else:
            assert spans[0].first <= first and spans[-1].end >= end
            assert all(one.end >= other.first and other.end > one.end for one, other in pairwise(spans))
    assert refused > 100


def test_an_offset_inside_a_token_does_not_hang_the_search(shards: ShardSet):
    """One flipped bit: the document whose end is rounded to the place looked for does not hold it."""
    record = shards.manifest.shards[1]
    third = shards.document_span(shards.manifest.shards[0].num_documents + 2)
    offset = 2 * (third.first - shards.manifest.shards[0].num_tokens) + 1
    change(shards.prefix.parent / FILES[1], 34 + 4 * record.num_documents + 8 * 2, struct.pack("<q", offset))
    with pytest.raises(DataError, match="is damaged at document 1;"):
        ShardSet.open(shards.prefix).documents_in(third.first, 1)


def test_a_manifest_of_more_tokens_than_its_files_have_is_refused(shards: ShardSet):
    path = shards.prefix.with_name("set.manifest.json")
    manifest = json.loads(path.read_text())
    manifest["num_tokens"] += 5
    manifest["shards"][0]["num_tokens"] += 5
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"bytes, .* ids of uint16 make"):
        ShardSet.open(shards.prefix)


def test_a_missing_or_damaged_manifest_is_a_sentence(shards: ShardSet):
    with pytest.raises(DataError, match="there are: set"):
        ShardSet.open(shards.prefix.with_name("sett"))
    path = shards.prefix.with_name("set.manifest.json")
    for text in (
        "{",
        "{}",
        path.read_text().replace('"version":1', '"version":3').replace('"version": 1', '"version": 3'),
        path.read_text().replace("_text_document.bin", "\\u0000"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=r"set\.manifest\.json is damaged or of another version"):
            ShardSet.open(shards.prefix)


def test_an_empty_corpus_writes_nothing(tokenizer: Tokenizer, tmp_path: Path):
    corpus = tmp_path / "empty.jsonl"
    for text in ("", '{"text": ""}\n'):
        corpus.write_text(text)
        with pytest.raises(DataError, match="corpus is empty"):
            tokenize([corpus], tokenizer, tmp_path / "set")
    assert names(tmp_path) == ["empty.jsonl"]


def test_a_bad_record_in_the_middle_writes_nothing_and_keeps_the_older_set(shards: ShardSet, tokenizer, tmp_path: Path):
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\nnot json\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        tokenize([bad], tokenizer, tmp_path / "set", force=True)
    bad.unlink()
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_an_older_set_is_replaced_only_when_told_to(shards: ShardSet, corpus: Path, tokenizer, tmp_path: Path):
    with pytest.raises(DataError, match="--force"):
        tokenize([corpus], tokenizer, tmp_path / "set")
    tokenize([corpus], tokenizer, tmp_path / "set", force=True)
    assert names(tmp_path) == ["set.manifest.json"] + [
        f"set_00000_{kind}" for kind in ("documents.npy", "text_document.bin", "text_document.idx")
    ]
    assert verify(tmp_path / "set") == []


def test_a_slash_after_the_prefix_is_nothing(shards: ShardSet, corpus: Path, tokenizer: Tokenizer, tmp_path: Path):
    before = names(tmp_path)
    with pytest.raises(DataError, match="--force"):
        tokenize([corpus], tokenizer, f"{shards.prefix}/")
    assert names(tmp_path) == before
    assert ShardSet.open(f"{shards.prefix}/").digest == shards.digest
    for prefix in ("", ".", f"{tmp_path}/..", "/"):
        with pytest.raises(DataError, match="no prefix"):
            tokenize([corpus], tokenizer, prefix)


def test_two_writers_of_one_set_are_refused_and_what_lies_beside_it_stays(corpus: Path, tokenizer, tmp_path: Path):
    (tmp_path / "set.partial").mkdir()
    arguments = (tmp_path / "set", tokenizer, describe_sources([corpus]))
    with ShardWriter(*arguments) as writer:
        with pytest.raises(DataError, match=r"another process is writing .*set"):
            ShardWriter(*arguments)
        writer.add(np.arange(300), 300, str(corpus), 0, 0, 0)
        writer.commit()
    assert verify(tmp_path / "set") == []
    assert len(names(tmp_path)) == 5 and (tmp_path / "set.partial").is_dir()


def test_empty_documents_are_left_out_and_counted(tokenizer: Tokenizer, tmp_path: Path):
    corpus = tmp_path / "some.jsonl"
    corpus.write_text('{"text": ""}\n{"text": "a"}\n{"text": ""}\n')
    manifest = tokenize([corpus], tokenizer, tmp_path / "set")
    assert (manifest.num_documents, manifest.num_empty_documents) == (1, 2)
    assert ShardSet.open(tmp_path / "set").provenance(0).position == 1


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from data_pipeline.shards import ShardWriter, describe_sources
from data_pipeline.tokenizer import Tokenizer
prefix, corpus, tokenizer, moment = sys.argv[1:]
writer = ShardWriter(prefix, Tokenizer.load(tokenizer), describe_sources([Path(corpus)]), tokens_per_shard=1000)
for record in range(20):
    writer.add(np.arange(300), 300, corpus, record, 0, record)
if moment == "committing":
    from data_pipeline.shards import writer as module
    module.write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    writer.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["writing", "committing"])
def test_a_killed_writer_leaves_no_shard_set(corpus: Path, tokenizer: Tokenizer, tmp_path: Path, moment: str):
    arguments = [str(tmp_path / "set"), str(corpus), str(save(tokenizer, tmp_path / "tokenizer")), moment]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="no shard set"):
        ShardSet.open(tmp_path / "set")
    tokenize([corpus], tokenizer, tmp_path / "set")
    assert verify(tmp_path / "set") == []
    assert len(names(tmp_path)) == 5


def test_a_writer_killed_while_it_replaces_an_older_set_leaves_none(
    shards: ShardSet, corpus: Path, tokenizer, tmp_path
):
    arguments = [str(shards.prefix), str(corpus), str(save(tokenizer, tmp_path / "tokenizer")), "committing"]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="no shard set"):
        ShardSet.open(shards.prefix)


def test_a_full_disk_is_a_sentence(corpus: Path, tokenizer: Tokenizer, tmp_path: Path):
    """A file size limit stands in for the full disk: the same OSError from the same write."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from data_pipeline.execute import tokenize; from data_pipeline.tokenizer import Tokenizer;"
        "loaded = Tokenizer.load(sys.argv[2]); resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from data_pipeline.errors import DataError\n"
        "try: tokenize([sys.argv[1]], loaded, sys.argv[3])\n"
        "except DataError as error: print(error)"
    )
    arguments = [str(corpus), str(save(tokenizer, tmp_path / "tokenizer")), str(tmp_path / "set")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "cannot write the shards" in done.stdout and "File too large" in done.stdout
    assert names(tmp_path) == ["tokenizer"]


def test_memory_does_not_grow_with_the_tokens(tmp_path: Path, corpus: Path, tokenizer: Tokenizer):
    import tracemalloc

    with ShardWriter(tmp_path / "set", tokenizer, describe_sources([corpus])) as writer:
        row = np.zeros(100_000, np.int32)
        writer.add(row, 1, str(corpus), 0, 0, 0)
        tracemalloc.start()
        for record in range(200):
            writer.add(row, 1, str(corpus), record, 0, 0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4e6 < 200 * len(row) * 2
