"""`megamodel data train-tokenizer` and `data fertility`: make a tokenizer, and see what tokenizers cost."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.data import AsJson, EosToken, Files, Force, Pattern, TextField

if TYPE_CHECKING:
    from tools.inspect.fertility import Report


class Model(StrEnum):
    """Kinds of tokenizers that can be trained."""

    BYTE_BPE = "byte_bpe"
    SENTENCEPIECE_UNIGRAM = "sentencepiece_unigram"
    SENTENCEPIECE_BPE = "sentencepiece_bpe"
    WORDPIECE = "wordpiece"


def train_tokenizer(
    files: Files,
    out: Annotated[Path, typer.Option(help="Folder for tokenizer.json and what belongs to it.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens to end up with.")],
    model: Annotated[
        Model, typer.Option(help="Kind of tokenizer; a document ends with its end token.")
    ] = Model.BYTE_BPE,
    lowercase: Annotated[
        bool, typer.Option("--lowercase", help="wordpiece: ignore capitals and accents, as BERT's uncased models do.")
    ] = False,
    text_field: TextField = "text",
    model_max_length: Annotated[int, typer.Option(min=1, help="Longest sequence, as noted for transformers.")] = 2048,
    force: Force = False,
) -> None:
    """Train a tokenizer; the same texts give the same bytes."""
    from data_pipeline.execute import train_tokenizer_into

    tokenizer = train_tokenizer_into(
        out, files, vocab_size, text_field, model_max_length, force, model.value, lowercase
    )
    typer.echo(f"{out}: {tokenizer.vocab_size} tokens, sha256 {tokenizer.digest[:16]}")
    if tokenizer.vocab_size < vocab_size:
        typer.echo(f"The corpus is too small for {vocab_size} tokens: nothing is left to merge.", err=True)


def fertility(
    files: Files,
    tokenizer: Annotated[
        list[Path], typer.Option(help="A tokenizer's folder or file; give the option again to compare several.")
    ],
    text_field: TextField = "text",
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes of text to look at in each file, at most.")] = 1 << 25,
    eos_token: EosToken = None,
    pattern: Pattern = None,
    as_json: AsJson = False,
) -> None:
    """Say how much text a token holds, by language and source: what tokenizers make of these files."""
    from tools.inspect.fertility import compare_tokenizers

    report = compare_tokenizers(files, tokenizer, text_field, max_bytes, eos_token, pattern)
    if as_json:
        typer.echo(json.dumps(report.as_json(), ensure_ascii=False))
    else:
        _show(report)


def _show(report: "Report") -> None:
    """Print one table a tokenizer, one row a group of documents."""
    from rich.console import Console
    from rich.table import Column, Table

    titles = ("documents", "bytes\na token", "characters\na token", "tokens\na word", "parts", "unknown")
    for name, groups in report.tokenizers.items():
        table = Table(
            Column("texts", overflow="fold"),
            *(Column(title, justify="right", no_wrap=True) for title in titles),
            title=name,
        )
        for group, row in groups.items():
            shares = [f"{share:.2%}" for share in (row.ratios["part_share"], row.ratios["unknown_share"])]
            names = ("bytes_per_token", "characters_per_token", "tokens_per_word")
            table.add_row(group, f"{row.documents:,}", *(f"{row.ratios[name]:.2f}" for name in names), *shares)
        Console().print(table)
    typer.echo("parts: tokens that are one byte of a character of several; unknown: what no token spells.")
