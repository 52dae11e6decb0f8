"""`megamodel data ...`: from raw text to token shards, and what is in them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.errors import CheckFailed

if TYPE_CHECKING:
    from data_pipeline.shards import Manifest

Prefix = Annotated[str, typer.Argument(metavar="PREFIX", help="A shard set: the path before .manifest.json.")]
Files = Annotated[list[str], typer.Argument(metavar="FILES...", help="Files, globs or folders.")]
TextField = Annotated[str, typer.Option(help="Field of a record that holds the text.")]
IdField = Annotated[str, typer.Option(help="Field of a record that holds the document's id.")]
Force = Annotated[bool, typer.Option("--force", help="Make it again even if it exists.")]
EosToken = Annotated[str | None, typer.Option(help="Token that ends a document, where the file does not tell.")]
Pattern = Annotated[
    str | None, typer.Option(help="tiktoken's ranks: gpt2, cl100k, o200k, llama3, or the regular expression for words.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    from launcher.cli.data_foreign import export_tokens, import_tokens
    from launcher.cli.data_prepare import prepare
    from launcher.cli.data_tokenizer import fertility, train_tokenizer

    sub = typer.Typer(no_args_is_help=True, help="Prepare, inspect and verify token shards.")
    sub.command("prepare")(prepare)
    sub.command("train-tokenizer")(train_tokenizer)
    sub.command("tokenize")(tokenize)
    sub.command("fertility")(fertility)
    sub.command("inspect")(inspect)
    sub.command("verify")(verify)
    sub.command("import")(import_tokens)
    sub.command("export")(export_tokens)
    app.add_typer(sub, name="data")


def tokenize(
    files: Files,
    tokenizer: Annotated[Path, typer.Option(help="A tokenizer's folder or file, of any kind.")],
    out: Annotated[str, typer.Option(metavar="PREFIX", help="Prefix of the shard set to write.")],
    text_field: TextField = "text",
    id_field: IdField = "id",
    tokens_per_shard: Annotated[int, typer.Option(min=1, help="Tokens in one shard, at most.")] = 2**31,
    eos_token: EosToken = None,
    pattern: Pattern = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn documents into a shard set."""
    from data_pipeline.execute import tokenize as run
    from data_pipeline.tokenizer import Tokenizer, with_fallback

    def work(fast: bool) -> "Manifest":
        loaded = Tokenizer.load(tokenizer, fast=fast, eos_token=eos_token, pattern=pattern)
        if loaded.note:
            typer.echo(f"{tokenizer}: {loaded.note}", err=True)
        return run(files, loaded, out, text_field, id_field, tokens_per_shard, force)

    show_sets({out: with_fallback(work)}, as_json)


def inspect(
    prefix: Prefix,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the tokenizer; unset: `tokenizer` beside the set.")
    ] = None,
    documents: Annotated[int, typer.Option(min=0, help="Documents to show.")] = 3,
    seq_len: Annotated[
        int | None, typer.Option(min=1, help="Say also how documents fall into sequences of so many tokens.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a shard set's counts and its first documents, decoded. With --seq-len the plan for packing is made ready."""
    from data_pipeline.shards import ShardSet
    from tools.inspect.packing import describe_packing
    from tools.inspect.shards import first_documents, tokenizer_of

    shards = ShardSet.open(prefix)
    found = first_documents(shards, tokenizer_of(shards, tokenizer), documents)
    packing = describe_packing(shards, seq_len) if seq_len else None
    if as_json:
        extra = {"packing": packing} if packing else {}
        summary = {**_summary(shards.manifest), **extra, "first_documents": found}
        typer.echo(json.dumps(summary, ensure_ascii=False))
        return
    show_sets({prefix: shards.manifest}, as_json=False)
    if packing:
        _show_packing(packing)
    for document in found:
        typer.echo(
            f"\n{document['source']}:{document['record']}  {document['num_tokens']} tokens\n  {document['text']}"
        )


def _show_packing(packing: dict[str, Any]) -> None:
    """Print one row a way to cut the set into sequences."""
    from rich.console import Console
    from rich.table import Column, Table

    titles = ("data.packing", "sequences", "filled", "targets", "documents cut")
    table = Table(*(Column(title, justify="right" if number else "left") for number, title in enumerate(titles)))
    for name in ("contiguous", "best_fit"):
        way = packing[name]
        table.add_row(
            name, f"{way['sequences']:,}", f"{way['filled']:.2%}", f"{way['targets']:,}", f"{way['cut_documents']:,}"
        )
    Console().print(table)
    typer.echo(
        f"{packing['too_long_documents']:,} of {packing['documents']:,} documents are longer than {packing['seq_len']} "
        f"+ 1 tokens: any packing cuts them. The plan for best_fit is {packing['plan']}."
    )


def verify(prefix: Prefix, as_json: AsJson = False) -> None:
    """Check every byte of a shard set against its manifest. Exit code 1 when something differs."""
    from data_pipeline.progress import progress
    from data_pipeline.shards import verify as run
    from data_pipeline.shards.manifest import parse_manifest

    manifest = parse_manifest(prefix)
    with progress("verifying", manifest.num_bytes) as advance:
        problems = run(prefix, advance)
    if as_json:
        typer.echo(json.dumps({"prefix": prefix, "ok": not problems, "problems": problems}, ensure_ascii=False))
    if problems:
        raise CheckFailed(
            "\n  ".join([f"{prefix} is broken:", *problems, "Bring the files back or prepare them again."])
        )
    if not as_json:
        counts = f"{manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens"
        typer.echo(f"{prefix} is whole: {counts}, every byte as its manifest says.")


def _summary(manifest: "Manifest") -> dict[str, int | float | str | None]:
    """The numbers of a manifest that a person asks for."""
    return {
        "origin": manifest.origin,
        "documents": manifest.num_documents,
        "empty_documents": manifest.num_empty_documents,
        "tokens": manifest.num_tokens,
        "eos_tokens": manifest.num_eos_tokens,
        "text_bytes": manifest.text_bytes,
        "bytes_per_token": _bytes_per_token(manifest),
        "vocab_size": manifest.vocab_size,
        "dtype": manifest.dtype,
        "shards": len(manifest.shards),
        "tokenizer_sha256": manifest.tokenizer_sha256,
        "content_sha256": manifest.content_sha256,
    }


def _bytes_per_token(manifest: "Manifest") -> float | None:
    """Nothing for imported tokens, whose text is not known."""
    if not manifest.text_bytes:
        return None
    return round(manifest.text_bytes / max(1, manifest.num_tokens - manifest.num_eos_tokens), 4)


def show_sets(sets: dict[str, "Manifest"], as_json: bool) -> None:
    """Print one column a shard set."""
    from rich.console import Console
    from rich.table import Column, Table

    summaries = {name: _summary(manifest) for name, manifest in sets.items()}
    if as_json:
        typer.echo(json.dumps(summaries))
        return
    table = Table("", *(Column(name, justify="right", overflow="fold") for name in sets))
    for field in next(iter(summaries.values())):
        values = [row[field] for row in summaries.values()]
        table.add_row(field.replace("_", " "), *(_short(value) for value in values))
    Console().print(table)


def _short(value: float | str | None) -> str:
    """Thousands apart; a digest by its beginning."""
    if value is None:
        return "unknown"
    return f"{value:,}" if not isinstance(value, str) else value[:16]
