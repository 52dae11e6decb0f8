"""What becomes of a shard set's documents in training sequences: how many are cut, and how full the sequences are."""

from typing import Any

from data_pipeline.mixture.pack_build import open_plan
from data_pipeline.shards import ShardSet


def describe_packing(shards: ShardSet, seq_len: int) -> dict[str, Any]:
    """Compare contiguous windows with best-fit packing; makes the plan that training uses when there is none yet.

    Returns seq_len, documents, too_long_documents (longer than a window), plan (its folder), and for `contiguous` and
    `best_fit` each: sequences (in one epoch), filled (share of the places that hold a document's token), targets, and
    cut_documents.
    """
    opened = open_plan(shards, seq_len)
    plan = opened.plan
    places = plan.best_fit.windows * (seq_len + 1)
    filled = {"contiguous": 1.0, "best_fit": (plan.best_fit.targets + plan.rows["pieces"]) / max(1, places)}
    ways = {
        name: {
            "sequences": counts.windows,
            "filled": filled[name],
            "targets": counts.targets,
            "cut_documents": counts.cut_documents,
        }
        for name, counts in (("contiguous", plan.contiguous), ("best_fit", plan.best_fit))
    }
    return {
        "seq_len": seq_len,
        "documents": plan.documents,
        "too_long_documents": plan.too_long_documents,
        "plan": str(opened.folder),
        **ways,
    }
