"""Our shards in megatron-core's own reader."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.execute import tokenize
from data_pipeline.shards import ShardSet
from data_pipeline.shards.megatron import index_blocks
from data_pipeline.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # megatron-core warns of what else could be installed


def test_megatron_core_reads_the_same_tokens_and_boundaries(shards: ShardSet):
    pytest.importorskip("megatron.core", reason="megatron-core is not installed (it is in the dev extra)")
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    document = 0
    for record in shards.manifest.shards:
        theirs = IndexedDataset(str(shards.prefix.parent / record.bin.name.removesuffix(".bin")), mmap=True)
        assert len(theirs) == record.num_documents
        np.testing.assert_array_equal(theirs.document_indices, np.arange(record.num_documents + 1))
        assert theirs.sequence_lengths.sum() == record.num_tokens
        for row in theirs[:]:
            span = shards.document_span(document)
            np.testing.assert_array_equal(row, shards.read(span.first, span.end - span.first))
            document += 1
    assert document == shards.num_documents


def test_the_pair_that_megatron_core_writes_is_the_pair_we_write(corpus: Path, tokenizer: Tokenizer, tmp_path: Path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("megatron.core", reason="megatron-core is not installed (it is in the dev extra)")
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    tokenize([corpus], tokenizer, tmp_path / "ours")
    ours = ShardSet.open(tmp_path / "ours")
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=DType.optimal_dtype(tokenizer.vocab_size))
    for document in range(ours.num_documents):
        span = ours.document_span(document)
        builder.add_item(torch.from_numpy(ours.read(span.first, span.end - span.first).astype(np.int64)))
        builder.end_document()
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in ("bin", "idx"):
        theirs = (tmp_path / f"theirs.{suffix}").read_bytes()
        assert (tmp_path / f"ours_00000_text_document.{suffix}").read_bytes() == theirs


def test_the_index_of_millions_of_documents_is_made_in_little_memory():
    lengths = np.arange(3_000_000, dtype=np.int32) % 5
    tracemalloc.start()
    size = sum(len(block) for block in index_blocks("uint16", lengths))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 * 2**20 < size
    whole = b"".join(index_blocks("uint16", lengths))
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    rest = struct.pack("<BQQ", 8, len(lengths), len(lengths) + 1) + lengths.tobytes()
    rest += (2 * ends[:-1]).tobytes() + np.arange(len(lengths) + 1).tobytes()
    assert whole == b"MMIDIDX\0\0" + struct.pack("<Q", 1) + rest
