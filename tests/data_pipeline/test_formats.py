"""Other software's token files, used where they lie: what they hold is what a run reads; what nothing says is asked."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.mixture import Loader, Mixture
from data_pipeline.shards import ShardSet, verify
from data_pipeline.shards.foreign import Imported, bring_in, find
from data_pipeline.tokenizer import Tokenizer
from tests.data_pipeline import foreign_files as foreign


@pytest.fixture
def documents(tokenizer: Tokenizer) -> list[np.ndarray]:
    """Ids of 30 documents, each ended, some of one token only."""
    generator = np.random.default_rng(3)
    lengths = [0, 3, *generator.integers(1, 200, 28).tolist()]
    return [np.append(generator.integers(1, 600, n), tokenizer.eos_id) for n in lengths]


def import_files(folder: Path, files: dict[str, bytes], tokenizer: Tokenizer, **options) -> Imported:
    return bring_in(find(foreign.write(folder, files)), tokenizer, **options)


def read_documents(shards: ShardSet) -> list[np.ndarray]:
    spans = [shards.document_span(number) for number in range(shards.num_documents)]
    return [shards.read(span.first, span.end - span.first) for span in spans]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def check(done: Imported, documents: list[np.ndarray]) -> ShardSet:
    """The set is sound, holds the documents, and a mixture draws from it."""
    assert verify(done.prefix) == []
    shards = ShardSet.open(done.prefix)
    assert same(read_documents(shards), documents)
    everything = np.concatenate(documents)
    assert [span.document for span in shards.documents_in(0, len(everything))] == [
        number for number, document in enumerate(documents) if len(document)
    ]
    mixture = Mixture.open([(done.prefix, 1.0)], 64, 7)
    window = mixture.samples(0, 1)[0, 1]
    np.testing.assert_array_equal(Loader(mixture, 1).batch(1).tokens[0], everything[window * 64 : window * 64 + 65])
    return shards


@pytest.mark.parametrize("dtype", foreign.MEGATRON_CODES)
@pytest.mark.parametrize("sequences", [1, 3])
def test_megatron_of_every_type_and_with_several_sequences_a_document(documents, tokenizer, tmp_path, dtype, sequences):
    small = [np.minimum(document, 100) for document in documents]
    done = import_files(tmp_path / "in", foreign.megatron(small, dtype, sequences), tokenizer)
    assert (done.manifest.dtype, done.manifest.origin) == (dtype, "megatron")
    check(done, small)


@pytest.mark.filterwarnings("ignore")  # megatron-core is older than NumPy 2
def test_megatron_core_writes_what_is_read(documents, tokenizer: Tokenizer, tmp_path: Path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("megatron.core", reason="megatron-core is not installed (it is in the dev extra)")
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    prefix = tmp_path / "books_text_document"
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int64)
    for document in documents:
        builder.add_document(torch.from_numpy(document), [1, len(document) - 1])
    builder.finalize(f"{prefix}.idx")
    for name in (prefix, f"{prefix}.idx", tmp_path / "books"):
        check(bring_in(find(name), tokenizer, force=True), documents)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("without", ["", ".index", ".metadata"])
def test_datatrove_with_either_of_its_side_files(documents, tokenizer, tmp_path: Path, dtype: str, without: str):
    files = foreign.datatrove(documents, dtype)
    if without:
        del files[f"00000_tokens.ds{without}"]
    done = import_files(tmp_path / "in", files, tokenizer)
    assert done.manifest.dtype == dtype and done.manifest.num_eos_tokens == len(documents)
    check(done, documents)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_dolma_with_its_table_knows_type_boundaries_and_origins(documents, tokenizer, tmp_path: Path, dtype: str):
    done = import_files(tmp_path / "in", foreign.dolma(documents, dtype), tokenizer)
    assert done.manifest.dtype == dtype
    shards = check(done, documents)
    assert shards.find_documents("doc-5") == shards.find_records("file.json.gz", 4) == [4]
    assert shards.provenance(4)[:2] == ("corpus/file.json.gz", 4)


def test_ids_without_any_boundary_are_cut_at_their_ends(documents, tokenizer: Tokenizer, tmp_path: Path):
    files = {"part-0.npy": foreign.dolma(documents)["part-0-00000.npy"]}
    with pytest.raises(DataError, match=r"nothing says of which type .*give --dtype"):
        import_files(tmp_path / "in", files, tokenizer)
    check(import_files(tmp_path / "in", files, tokenizer, dtype="uint16"), documents)


def test_documents_without_an_end_are_counted_and_told(documents, tokenizer: Tokenizer, tmp_path: Path):
    endless = [np.array(d[:-1]) for d in documents]
    done = import_files(tmp_path / "in", foreign.datatrove(endless), tokenizer)
    assert done.manifest.num_eos_tokens == 0 and "do not end in the tokenizer's" in done.notes[0]
    check(done, endless)


def test_no_token_is_copied_and_the_files_may_lie_anywhere(documents, tokenizer: Tokenizer, tmp_path: Path):
    folder = foreign.write(tmp_path / "far/away", foreign.datatrove(documents))
    before = {path: path.stat() for path in folder.iterdir()}
    done = bring_in(find(folder), tokenizer, out=tmp_path / "here/set")
    check(done, documents)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["set.manifest.json"]
    assert {path: path.stat() for path in folder.iterdir()} == before
    beside = bring_in(find(folder), tokenizer)
    (tmp_path / "far").rename(tmp_path / "near")
    moved = tmp_path / "near" / beside.prefix.name
    assert same(read_documents(ShardSet.open(moved)), documents)
    with pytest.raises(DataError, match=r"far/away/00000_tokens\.ds.* cannot be read"):
        ShardSet.open(done.prefix).read(0, 10)


def test_several_files_are_shards_in_order_and_empty_ones_are_left_out(documents, tokenizer, tmp_path: Path):
    files: dict[str, bytes] = {}
    for number in (2, 0, 1):
        files |= foreign.dolma(documents[10 * number : 10 * number + 10], name=f"part-{number}")
    files |= {"part-3.npy": b"", "part-3.csv.gz": gzip.compress(b"")}
    done = import_files(tmp_path / "in", files, tokenizer)
    assert len(done.manifest.shards) == 3 and "part-3.npy is empty" in done.notes[0]
    check(done, documents)


def test_a_flipped_bit_in_a_foreign_file_is_found(documents, tokenizer: Tokenizer, tmp_path: Path):
    done = import_files(tmp_path / "in", foreign.datatrove(documents), tokenizer)
    for name in ("00000_tokens.ds", "00000_tokens.ds.index"):
        path = tmp_path / "in" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
        assert any(name in problem and "sha256" in problem for problem in verify(done.prefix))
        path.write_bytes(whole)
    assert verify(done.prefix) == []


U16, I64 = {"dtype": "uint16"}, {"dtype": "int64"}
WRONG = {
    "another tokenizer": (lambda d: foreign.megatron([*d, np.array([5000])]), "id 5000 at byte .* 600 ids", {}),
    "a type that contradicts": (lambda d: foreign.megatron(d), "says that .* uint16, --dtype says int64", I64),
    "a type against the ends": (lambda d: foreign.dolma(d, "uint32"), "4 bytes each: they are not uint16", U16),
    "wide ids read as narrow": (
        lambda d: {"a.npy": foreign.dolma(d, "uint32")["part-0-00000.npy"]},
        "every second id .* uint32",
        U16,
    ),
    "no type at all": (lambda d: foreign.dolma(d), "'float32' is no type", {"dtype": "float32"}),
    "a NumPy header": (lambda d: {"a.npy": b"\x93NUMPY\1\0" + bytes(120)}, "NumPy file with a header", U16),
    "two formats": (
        lambda d: {**foreign.dolma(d), **foreign.datatrove(d)},
        "several formats: 1 of datatr.*--format",
        {},
    ),
    "nothing": (lambda d: {"readme.txt": b"hello"}, "there are no token files", {}),
    "only empty files": (lambda d: {"a.npy": b""}, "all its token files are empty", U16),
    "float ids": (lambda d: _recode(foreign.megatron(d), 7), "type code 7 at byte 17", {}),
    "an old index": (lambda d: {"a.bin": b"", "a.idx": b"TNTIDX\0\0" + bytes(50)}, "older, unmapped kind", {}),
    "a multimodal index": (lambda d: _longer(foreign.megatron(d), len(d)), "multimodal", {}),
    "no index": (lambda d: {"a.bin": b"12"}, r"cannot read .*a\.idx", {}),
    "a .bin cut short": (lambda d: _cut(foreign.megatron(d), ".bin"), "one of them was cut short", {}),
    "a .ds cut short": (lambda d: _cut(foreign.datatrove(d), ".ds"), "one of them was cut short", {}),
    "an index cut short": (lambda d: _cut(foreign.megatron(d), ".idx"), "header promises", {}),
    "a table cut short": (lambda d: _cut(foreign.dolma(d), ".gz"), r"csv\.gz is damaged after row", {}),
    "types that differ": (
        lambda d: foreign.dolma(d, name="a") | foreign.dolma(d, "uint32", name="b"),
        "holds uint32, the files before",
        {},
    ),
}


def _recode(files: dict[str, bytes], code: int) -> dict[str, bytes]:
    return {n: d if n.endswith("bin") else d[:17] + bytes([code]) + d[18:] for n, d in files.items()}


def _longer(files: dict[str, bytes], count: int) -> dict[str, bytes]:
    return {n: d if n.endswith("bin") else d + bytes(count) for n, d in files.items()}


def _cut(files: dict[str, bytes], suffix: str) -> dict[str, bytes]:
    return {n: d[:-6] if n.endswith(suffix) else d for n, d in files.items()}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_right_is_a_sentence_and_leaves_nothing(documents, tokenizer, tmp_path: Path, case: str):
    make, message, options = WRONG[case]
    with pytest.raises(DataError, match=message):
        import_files(tmp_path / "in", make(documents), tokenizer, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == sorted(make(documents))


def test_a_folder_of_the_same_name_hides_no_prefix(documents, tokenizer: Tokenizer, tmp_path: Path):
    foreign.write(tmp_path / "books", {"readme.txt": b""})
    check(bring_in(find(foreign.write(tmp_path, foreign.megatron(documents)) / "books"), tokenizer), documents)


def test_the_format_can_be_forced(documents, tokenizer: Tokenizer, tmp_path: Path):
    folder = foreign.write(tmp_path / "in", {**foreign.dolma(documents), **foreign.datatrove(documents)})
    for name in ("dolma", "datatrove"):
        check(bring_in(find(folder, name), tokenizer, force=True), documents)
    with pytest.raises(DataError, match="no format that can be imported"):
        find(folder, "parquet")


def test_an_import_replaces_an_import_when_told_to_and_never_a_set_of_ours(
    documents, shards, tokenizer, tmp_path: Path
):
    folder = foreign.write(tmp_path / "in", foreign.dolma(documents))
    before = bring_in(find(folder), tokenizer).manifest
    with pytest.raises(DataError, match="--force"):
        bring_in(find(folder), tokenizer)
    assert bring_in(find(folder), tokenizer, force=True).manifest == before
    with pytest.raises(DataError, match="a shard set of its own"):
        bring_in(find(folder), tokenizer, out=shards.prefix, force=True)
    assert verify(shards.prefix) == []


@pytest.mark.parametrize("format", ["dolma", "mds"])
def test_importing_again_leaves_nothing_of_the_import_before(documents, tokenizer, tmp_path: Path, format: str):
    def files(count: int) -> dict[str, bytes]:
        if format == "mds":
            return foreign.mds([foreign.mds_array(ids.astype("uint16")) for ids in documents[:count]], "ndarray:uint16")
        return {k: v for n in range(count) for k, v in foreign.dolma(documents[n:], name=f"part-{n}").items()}

    for place, count in (("once", 1), ("twice", 3), ("twice", 1)):
        folder = foreign.write(tmp_path / f"in-{count}", files(count))
        bring_in(find(folder), tokenizer, out=tmp_path / place / "set", force=True)
    once = {path.name: path.read_bytes() for path in (tmp_path / "once").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "twice").iterdir()} == once


def test_a_run_that_names_foreign_files_is_told_how_to_import_them(documents, tmp_path: Path):
    folder = foreign.write(tmp_path / "in", {**foreign.megatron(documents), **foreign.datatrove(documents)})
    for name in ("books", "books_text_document", "00000_tokens"):
        with pytest.raises(DataError, match=f"`megamodel data import {folder / name}`"):
            ShardSet.open(folder / name)


def test_our_own_shards_are_megatrons_too(shards: ShardSet, tokenizer: Tokenizer, tmp_path: Path):
    assert find(shards.prefix.parent).format == find(shards.prefix).format == "megatron"
    done = bring_in(find(shards.prefix), tokenizer, out=tmp_path / "again")
    assert done.manifest.content_sha256 == shards.digest
    assert same(read_documents(ShardSet.open(done.prefix)), read_documents(shards))


def test_the_manifest_of_an_import_is_of_another_version_and_guarded(documents, tokenizer: Tokenizer, tmp_path: Path):
    done = import_files(tmp_path / "in", foreign.datatrove(documents), tokenizer)
    path = done.prefix.with_name("in.manifest.json")
    before = json.loads(path.read_text())
    assert before["version"] == 2
    for field, value in {"origin": "dolma", "eos_id": 5, "num_eos_tokens": 3}.items():
        path.write_text(json.dumps({**before, field: value}))
        assert any("in.manifest.json" in problem for problem in verify(done.prefix)), field


def test_a_huge_count_in_a_header_takes_no_memory(tmp_path: Path):
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 2**60, 2**60)
    foreign.write(tmp_path, {"a.bin": b"12", "a.idx": header + bytes(100)})
    with pytest.raises(DataError, match="header promises"):
        bring_in(find(tmp_path / "a"), None)  # type: ignore[arg-type]


def test_an_import_needs_no_right_to_write_beside_the_files(documents, tokenizer: Tokenizer, tmp_path: Path):
    folder = foreign.write(tmp_path / "in", foreign.dolma(documents))
    done = bring_in(find(folder), tokenizer, out=tmp_path / "out/set")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["set.manifest.json", "set_00000_documents.index", "set_00000_documents.npy"]
    check(done, documents)
