"""One module a source format; each turns a file into a stream of Document, and of Broken for what it cannot read."""

from data_pipeline.read.document import BEGINNING, Broken, Document, Place
from data_pipeline.read.expand import expand
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
    "is_local",
    "read",
    "read_documents",
    "read_identities",
    "scan",
    "shown",
]
