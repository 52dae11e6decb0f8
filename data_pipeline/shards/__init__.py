"""The format on disk: Megatron's .bin and .idx, a provenance array, and a manifest. Write, read, verify."""

from data_pipeline.shards.manifest import FileRecord, Manifest, describe_sources
from data_pipeline.shards.reader import DocumentSpan, Provenance, ShardSet
from data_pipeline.shards.verify import verify
from data_pipeline.shards.writer import TOKENS_PER_SHARD, ShardWriter

__all__ = [
    "TOKENS_PER_SHARD",
    "DocumentSpan",
    "FileRecord",
    "Manifest",
    "Provenance",
    "ShardSet",
    "ShardWriter",
    "describe_sources",
    "verify",
]
