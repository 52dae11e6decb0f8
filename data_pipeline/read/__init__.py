"""One module a source format; each turns a file into a stream of Document."""

from data_pipeline.read.document import Document
from data_pipeline.read.files import expand, read_documents, read_identities

__all__ = ["Document", "expand", "read_documents", "read_identities"]
