"""datatrove's pipelines for `megamodel bench data`: a script for an interpreter that has datatrove, and not megamodel.

python datatrove_pipeline.py '{"what": "shards", "file": ..., "tokenizer": ..., "eos_token": ..., "out": ...}'

Prints one line of JSON: the seconds and the processor seconds of the work, without imports and without the loading of
the vocabulary, which comes with the first document; and the version.
"""

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.filters import (
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import MegatronDocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter


def main(task: dict[str, Any]) -> dict[str, Any]:
    """Run what is asked for, in this process, one step after the other as its own executor would."""
    folder, out = str(Path(task["file"]).parent), Path(task["out"])
    tokenizer = MegatronDocumentTokenizer(
        str(out), tokenizer_name_or_path=task["tokenizer"], eos_token=task["eos_token"], save_filename="shards"
    )
    _ = tokenizer.tokenizer  # loads it
    reader = JsonlReader(folder, glob_pattern=Path(task["file"]).name)
    start, begun = time.perf_counter(), time.process_time()
    if task["what"] == "shards":
        run(reader, tokenizer)
    else:
        cleaned(reader, tokenizer, out)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - begun,
        "version": importlib.metadata.version("datatrove"),
    }


def cleaned(reader: Any, tokenizer: Any, out: Path) -> None:
    """The three sets of quality rules, then MinHash in its four stages, then the shards."""
    kept, signatures, buckets, gone = (str(out / name) for name in ("kept", "signatures", "buckets", "gone"))
    writer = JsonlWriter(kept, compression="zstd" if _has("zstandard") else None)
    run(reader, GopherQualityFilter(), GopherRepetitionFilter(), FineWebQualityFilter(), writer)
    run(JsonlReader(kept), MinhashDedupSignature(signatures))
    for bucket in range(14):
        MinhashDedupBuckets(signatures, buckets).run(None, bucket, 14)
    run(MinhashDedupCluster(buckets, gone))
    run(JsonlReader(kept), MinhashDedupFilter(gone), tokenizer)


def run(*steps: Any) -> None:
    """Chain steps and draw every document through them."""
    data: Any = None
    for step in steps:
        data = step(data, 0, 1) if callable(step) else step.run(data, 0, 1)
    for _ in data or ():
        pass


def _has(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    print(json.dumps(main(json.loads(sys.argv[1]))))
