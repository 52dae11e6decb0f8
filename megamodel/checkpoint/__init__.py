"""Checkpoints that any layout writes and any layout reads, digested while written, committed by a rename."""

from megamodel.checkpoint.folder import (
    checkpoint_name,
    find_newest_good,
    list_checkpoints,
    quarantine,
    remove_leftovers,
)
from megamodel.checkpoint.manifest import WEIGHTS_ONLY, Manifest, read_manifest
from megamodel.checkpoint.read import load_into, load_weights, read_tensors
from megamodel.checkpoint.verify import verify_checkpoint
from megamodel.checkpoint.write import CheckpointWriter, Saved

__all__ = [
    "WEIGHTS_ONLY",
    "CheckpointWriter",
    "Manifest",
    "Saved",
    "checkpoint_name",
    "find_newest_good",
    "list_checkpoints",
    "load_into",
    "load_weights",
    "quarantine",
    "read_manifest",
    "read_tensors",
    "remove_leftovers",
    "verify_checkpoint",
]
