"""Open any step of a run, or any shard set: which documents, from which files."""
