"""The page about a preparation: what came in, what went out, and why the rest did not."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.files import write_atomically
from data_pipeline.report import html
from data_pipeline.report.html import amount, number, percent

Counts = dict[str, Any]


def write_report(path: Path, name: str, counts: Counts, seconds: dict[str, float], stages: dict[str, str]) -> None:
    """Write the page, whole or not at all.

    `counts` is what counts.json holds, `seconds` the time of each stage, `stages` what each of them does.
    """
    write_atomically(path, html.page(f"{name}: the preparation", _parts(name, counts, seconds, stages)).encode())


def _parts(name: str, counts: Counts, seconds: dict[str, float], stages: dict[str, str]) -> Iterator[str]:
    yield html.Raw(f"<h1>{html.escape(name)}</h1>")
    yield f"<p>{_summary(counts)}</p>"
    yield html.facts(_figures(counts, seconds))
    yield from _flow(counts)
    yield from _sources(counts)
    yield from _rejections(counts)
    yield from _duplicates(counts)
    yield from _languages(counts)
    yield from _lengths(counts)
    yield from _time(counts, seconds, stages)


def _totals(counts: Counts) -> Counts:
    """The numbers of all sources together."""
    total: Counts = {}
    for source in counts.get("sources", {}).values():
        for key, value in source.items():
            if isinstance(value, int):
                total[key] = total.get(key, 0) + value
    return total


def _duplicate_totals(counts: Counts) -> dict[str, int]:
    sources = counts.get("duplicates", {}).values()
    return {kind: sum(found.get(kind, 0) for found in sources) for kind in ("exact", "near")}


def _tokenized(counts: Counts) -> Counts:
    sets = counts.get("sets", {}).values()
    return {key: sum(found.get(key, 0) for found in sets) for key in ("documents", "tokens", "text_bytes")}


def _summary(counts: Counts) -> str:
    total, out = _totals(counts), _tokenized(counts)
    share = 100 * out["documents"] / max(1, total.get("documents", 0))
    return (
        f"Of {total.get('documents', 0):,} documents {out['documents']:,} are in the shards ({share:.1f} %): "
        f"{out['tokens']:,} tokens of text, and one at the end of each."
    )


def _figures(counts: Counts, seconds: dict[str, float]) -> list[tuple[str, str]]:
    total, out = _totals(counts), _tokenized(counts)
    taken = sum(seconds.values())
    return [
        ("text read", amount(total.get("text_bytes", 0))),
        ("text in the shards", amount(out["text_bytes"])),
        ("tokens", number(out["tokens"])),
        ("bytes a token", number(out["text_bytes"] / max(1, out["tokens"]), 3)),
        ("time", duration(taken)),
        ("text read a second", amount(total.get("text_bytes", 0) / max(taken, 1e-9))),
    ]


def _flow(counts: Counts) -> Iterator[str]:
    """Documents in and out of each stage."""
    total, twins, out = _totals(counts), _duplicate_totals(counts), _tokenized(counts)
    here = records = total.get("documents", 0) + total.get("broken", 0)
    rows = [["records in the sources", number(records), "", html.bar(1)]]
    for what, gone in (
        ("could be read", total.get("broken", 0)),
        ("hold text", total.get("empty", 0)),
        *((f"pass {step}", lost) for step, lost in _by_step(counts).items()),
        ("are no exact duplicates", twins["exact"]),
        ("are no near duplicates", twins["near"]),
    ):
        if gone:
            here -= gone
            rows.append([what, number(here), number(-gone), html.bar(here / max(1, records))])
    rows.append(["in the shards", number(out["documents"]), "", html.bar(out["documents"] / max(1, records))])
    yield "<h2>Documents, stage by stage</h2>"
    yield html.table(["", "documents", "fewer by", ""], rows)


def _by_step(counts: Counts) -> dict[str, int]:
    """Documents that each step rejected, in the order of the steps."""
    found: dict[str, int] = {}
    for kind, lost in counts.get("rejected", {}).items():
        step = kind.split(": ")[0]
        found[step] = found.get(step, 0) + lost
    return {step: found[step] for step in [*counts.get("steps", []), *found] if step in found}


def _sources(counts: Counts) -> Iterator[str]:
    yield "<h2>Sources</h2>"
    rows = []
    for name, source in counts.get("sources", {}).items():
        out = counts.get("tokenized", {}).get(name, {})
        tokens, size = out.get("tokens", 0), out.get("text_bytes", 0)
        rows.append(
            [
                name,
                number(source.get("documents", 0)),
                amount(source.get("text_bytes", 0)),
                number(out.get("documents", 0)),
                number(tokens),
                number(size / tokens, 3) if tokens else html.Number("–"),
                number(source.get("broken", 0)),
            ]
        )
    head = ["source", "documents", "text", "in the shards", "tokens", "bytes a token", "unreadable"]
    yield html.table(head, rows)


def _rejections(counts: Counts) -> Iterator[str]:
    rejected = counts.get("rejected", {})
    if not rejected:
        return
    total = _totals(counts).get("documents", 0)
    yield "<h2>Why documents were rejected</h2>"
    order = sorted(rejected, key=lambda kind: -rejected[kind])
    rows = [
        [kind, number(rejected[kind]), percent(rejected[kind], total), html.bar(rejected[kind] / total)]
        for kind in order
    ]
    yield html.table(["reason", "documents", "of all", ""], rows)
    for kind in order:
        quotes = [(found["id"], found["text"]) for found in counts.get("examples", {}).get(kind, [])]
        yield html.folded(f"{kind}: examples", quotes)


def _duplicates(counts: Counts) -> Iterator[str]:
    duplicates = counts.get("duplicates", {})
    if not duplicates:
        return
    yield "<h2>Duplicates</h2>"
    if near := counts.get("near"):
        yield (
            f"<p>Near: of the shingles of the two documents ({near['ngram']} words in a row, or characters of a script "
            f"without spaces) an earlier one shares at least {100 * near['threshold']:g} %. Pairs are found by "
            f"{near['bands']} bands of {near['rows']} MinHashes, and compared exactly.</p>"
        )
    sizes = counts.get("duplicate_bytes", {})
    rows = [[name, *(number(found.get(kind, 0)) for kind in ("exact", "near"))] for name, found in duplicates.items()]
    rows.append(["text in them", *(amount(sizes.get(kind, 0)) for kind in ("exact", "near"))])
    yield html.table(["source", "exact", "near"], rows)


def _languages(counts: Counts) -> Iterator[str]:
    languages = counts.get("languages", {})
    total = sum(languages.values())
    yield "<h2>Languages</h2>"
    yield "<p>Of the documents that pass cleaning; tokens and bytes a token of those in the shards.</p>"
    rows = []
    for language in sorted(languages, key=lambda name: -languages[name]):
        out = counts.get("by_language", {}).get(language, {})
        fertility = number(out["text_bytes"] / out["tokens"], 3) if out.get("tokens") else html.Number("–")
        share = html.bar(languages[language] / total)
        tokens = number(out.get("tokens", 0))
        rows.append(
            [language, number(languages[language]), percent(languages[language], total), tokens, fertility, share]
        )
    yield html.table(["language", "documents", "share", "tokens", "bytes a token", ""], rows)


def _lengths(counts: Counts) -> Iterator[str]:
    for key, what, which in (
        ("bytes_of_documents", "Length in bytes", "Documents that pass cleaning"),
        ("tokens_of_documents", "Length in tokens", "Documents in the shards"),
    ):
        found = counts.get(key, [])
        if found:
            yield f"<h2>{what}</h2><p>{which}, by length; a column begins at the number below it.</p>"
            yield html.histogram(found, _labels(found))


def _labels(counts: Sequence[int]) -> list[str]:
    """Where each bin begins: 0, 1, 2, 4, ..., 1k, 2k, ..."""
    starts = [0, *(1 << place for place in range(len(counts) - 1))]
    units = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k"))
    return [next((f"{start // size}{unit}" for size, unit in units if start >= size), str(start)) for start in starts]


def _time(counts: Counts, seconds: dict[str, float], stages: dict[str, str]) -> Iterator[str]:
    yield "<h2>Time</h2>"
    total = sum(seconds.values())
    slowest = max(seconds, key=lambda stage: seconds[stage], default=None)
    if slowest:
        yield f"<p>The slowest stage was {html.escape(stages.get(slowest, slowest))}.</p>"
    size = _totals(counts).get("text_bytes", 0)
    rows = []
    for name, taken in seconds.items():
        rate, share = amount(size / max(taken, 1e-9)), html.bar(taken / max(total, 1e-9))
        rows.append([stages.get(name, name), duration(taken), percent(taken, total), rate, share])
    yield html.table(["stage", "time", "share", "text a second", ""], rows)


def duration(seconds: float) -> html.Number:
    """Hours, minutes and seconds, as many as matter."""
    minutes, rest = divmod(round(seconds, 1), 60)
    if not minutes:
        return html.Number(f"{rest:.1f} s")
    hours, minutes = divmod(int(minutes), 60)
    return html.Number(f"{hours} h {minutes} min" if hours else f"{minutes} min {rest:.0f} s")
