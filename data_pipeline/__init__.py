"""From raw corpora to batches: read, tokenize, shard, mix. Needs no torch; what it hands out are numpy arrays."""
