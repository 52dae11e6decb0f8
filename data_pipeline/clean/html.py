"""HTML to its main text."""

import re
from dataclasses import replace
from typing import Literal

from data_pipeline.clean.step import Step, StepSettings
from data_pipeline.read import Document

_BEGINNING = re.compile(
    r"\s*(?:<\?xml[^>]{,200}>\s*|<!--.{,500}?-->\s*){,3}"
    r"<(?:!doctype\s+html|html|head|body|title|meta|article|section|main|div|table|p|h1|ul|ol)\b[^<]*>",
    re.IGNORECASE | re.DOTALL,
)
_LOOKED_AT = 2000
_CONTAINERS = re.compile(r"<(/?)(?:div|article)\b", re.IGNORECASE)
_DEEP = 500
"""In containers nested deeper the search for the main part takes a time that grows with the square of the depth."""


class Html(StepSettings):
    """Takes a page's main text out of its HTML with resiliparse (Bevendorff et al. 2018); other documents stay.

    HTML is what comes from .html files, what a .warc file calls so, and what begins like a page.
    """

    step: Literal["html"]
    """Selects this step."""
    always: bool = False
    """Take every document for HTML, also fragments that begin with text."""
    main_content: bool = True
    """Only the main part: no navigation, no footers. A page in which that part is empty is rejected as such."""
    list_bullets: bool = True
    """Put a bullet before the items of lists."""
    alt_texts: bool = False
    """Keep the descriptions of images."""
    links: bool = False
    """Keep the addresses of links."""
    comments: bool = True
    """Keep what readers wrote under an article."""

    def build(self) -> Step:
        """Extract where there is HTML."""

        def step(document: Document) -> Document:
            text = document.text
            if self.always or is_html(text) or (document.is_html and "<" in text):
                return replace(document, text=self._extract(text), is_html=False)
            return document

        return step

    def _extract(self, html: str) -> str:
        from resiliparse.extract.html2text import extract_plain_text

        told = {name: getattr(self, name) for name in ("list_bullets", "alt_texts", "links", "comments")}
        html = html.lstrip("\ufeff").encode("utf-8", "replace").decode()  # half surrogate pairs are no text
        return extract_plain_text(html, main_content=self.main_content and not _is_deep(html), **told)


def is_html(text: str) -> bool:
    """Whether the text begins like a page."""
    return "<" in text[:_LOOKED_AT] and "</" in text and bool(_BEGINNING.match(text[:_LOOKED_AT].lstrip("\ufeff")))


def _is_deep(html: str) -> bool:
    if html.count("<") < _DEEP:
        return False
    depth = 0
    for tag in _CONTAINERS.finditer(html):
        depth += -1 if tag[1] else 1
        if depth > _DEEP:
            return True
    return False
