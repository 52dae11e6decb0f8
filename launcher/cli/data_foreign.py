"""`megamodel data import` and `data export`: other software's tokens, both ways."""

import json
from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def import_tokens(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Token file, prefix or folder; for MDS and litData the folder.")
    ],
    tokenizer: Annotated[Path, typer.Option(help="Folder of the tokenizer that made the ids, or is to make them.")],
    out: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Prefix of the shard set; unset: beside SOURCE, named like it.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="megatron, datatrove, dolma, mds or litdata; unset: by the files' names.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Type of an id, such as uint16; only where nothing else says or proves it.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="MDS and litData: the column with ids or text; unset: tokens, input_ids or text.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Import again even if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a shard set of other software's tokens. Every id is read once, and checked.

    Files of Megatron, GPT-NeoX, NeMo, datatrove and Dolma/OLMo are used where they lie: what is written is a manifest,
    and the document boundaries where the format has them in another form. MDS and litData are converted.
    """
    from data_pipeline.progress import progress
    from data_pipeline.shards.foreign import bring_in, find
    from data_pipeline.tokenizer import Tokenizer
    from launcher.cli.data import show_sets

    found = find(source, format)
    loaded = Tokenizer.load(tokenizer)
    with progress("importing", found.size) as advance:
        done = bring_in(found, loaded, out, dtype, column, force, advance)
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    show_sets({str(done.prefix): done.manifest}, as_json)


def export_tokens(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="A shard set: the path before .manifest.json.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    format: Annotated[str, typer.Option(help="mds (for mosaicml-streaming) or litdata (for its TokensLoader).")],
    as_json: AsJson = False,
) -> None:
    """Write a shard set for another reader, one sample a document. Megatron's readers take the shards as they are."""
    from data_pipeline.progress import progress
    from data_pipeline.shards import ShardSet
    from data_pipeline.shards.foreign import send_out

    shards = ShardSet.open(prefix)
    with progress("exporting", sum(shard.bin.size for shard in shards.manifest.shards)) as advance:
        samples = send_out(shards, out, format, advance)
    if as_json:
        typer.echo(json.dumps({"out": str(out), "format": format, "samples": samples, "tokens": shards.num_tokens}))
    else:
        typer.echo(f"{out}: {samples:,} samples, {shards.num_tokens:,} tokens as {format}")
