"""Parts of a page that needs no network, no script and no other file: tables, bars and histograms of plain HTML."""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #3b7dd8; --soft: #8882; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 60rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0 .75rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th.n, td.n { text-align: right; white-space: nowrap; }
td:first-child { min-width: 7.5rem; }
@media (max-width: 36rem) { body { font-size: 14px; } table .bar { display: none; } th.n { white-space: normal; }
  table { font-size: 12px; } th, td { padding-right: .35rem; } td:first-child { min-width: 4rem; }
  .histogram span:nth-child(even) small { visibility: hidden; } }
th, td.n { overflow-wrap: normal; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.facts div { background: var(--soft); border-radius: .5rem; padding: .6rem .8rem; }
.facts b { display: block; font-size: 1.2rem; overflow-wrap: normal; }
.bar { background: var(--soft); border-radius: .2rem; min-width: 5rem; height: .8rem; margin-top: .35rem; }
.bar i { display: block; background: var(--bar); border-radius: .2rem; height: 100%; }
.histogram { display: flex; align-items: flex-end; gap: 2px; height: 9rem; }
.histogram span { flex: 1; display: flex; flex-direction: column; justify-content: flex-end; height: 100%;
  font-size: .6rem; text-align: center; min-width: 0; overflow-wrap: normal; }
.histogram i { display: block; background: var(--bar); border-radius: .15rem .15rem 0 0; min-height: 1px; }
.histogram small { font-size: inherit; white-space: nowrap; margin: 0 -1rem; }
details { margin: .4rem 0; } summary { cursor: pointer; }
blockquote { margin: .4rem 0; padding: .3rem .7rem; border-left: 3px solid var(--line); font-size: .9rem; }
code { font-size: .9em; }
"""


_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {0x7F: 0x2421}


class Number(str):
    """A cell that is set to the right."""


class Raw(str):
    """HTML that is put in as it is."""


def page(title: str, parts: Iterable[str]) -> str:
    """Put a page together."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells that are Numbers are set to the right, with the heads above them."""
    rows = list(rows)
    right = [any(isinstance(row[column], Number) for row in rows) for column in range(len(head))]
    top = "".join(f"<th{_class(n)}>{escape(name)}</th>" for name, n in zip(head, right, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{_class(n)}>{_cell(cell)}</td>" for cell, n in zip(row, right, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Figures that catch the eye: (what, how much)."""
    return '<div class="facts">' + "".join(f"<div><b>{escape(n)}</b>{escape(w)}</div>" for w, n in pairs) + "</div>"


def bar(share: float) -> Raw:
    """A bar of a share of 1."""
    return Raw(f'<div class="bar"><i style="width:{100 * min(1.0, max(0.0, share)):.2f}%"></i></div>')


def histogram(counts: Sequence[int], labels: Sequence[str]) -> str:
    """Columns with what they count above and below them."""
    highest = max([1, *counts])
    columns = "".join(
        f'<span title="{escape(label)}: {count:,}">'
        f'<i style="height:{100 * count / highest:.2f}%"></i><small>{escape(label)}</small></span>'
        for count, label in zip(counts, labels, strict=True)
    )
    return f'<div class="histogram">{columns}</div>'


def folded(summary: str, quotes: Iterable[tuple[str, str]]) -> str:
    """Quotations (from where, text) that open at a click."""
    inside = "".join(
        f"<blockquote><code>{escape(_visible(name))}</code><br>{escape(_visible(text))}</blockquote>"
        for name, text in quotes
    )
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def number(value: float, digits: int = 0) -> Number:
    """Thousands apart."""
    return Number(f"{value:,.{digits}f}")


def amount(size: float) -> Number:
    """Bytes in the largest fitting unit of 1,000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return Number(f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}")


def percent(part: float, whole: float) -> Number:
    """A share of a whole."""
    return Number(f"{100 * part / whole:.1f} %" if whole else "–")


def _visible(text: str) -> str:
    """Control characters as their pictures: a page may not hold them."""
    return text.translate(_PICTURES)


def _class(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def _cell(cell: str) -> str:
    return cell if isinstance(cell, Raw) else escape(cell)
