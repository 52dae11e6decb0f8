"""One module a source format; each turns a file into a stream of Document, and of Broken for what it cannot read."""

import os

from data_pipeline.read.document import BEGINNING, Broken, Document, Place
from data_pipeline.read.expand import expand, folders_of, passed_over
from data_pipeline.read.location import is_local, shown
from data_pipeline.read.reader import read, read_documents, read_identities
from data_pipeline.read.scan import Scan, scan

__all__ = [
    "BEGINNING",
    "Broken",
    "Document",
    "Place",
    "Scan",
    "expand",
    "folders_of",
    "is_local",
    "passed_over",
    "read",
    "read_documents",
    "read_identities",
    "scan",
    "shown",
]

# Nothing here phones home: Hugging Face's client would, besides fetching what it is asked for.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
