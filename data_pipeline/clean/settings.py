"""What each cleaning step is told; `clean` is a list of these, run in the order written."""

from typing import Annotated

from pydantic import Field

from data_pipeline.clean.bad_words import BadWords
from data_pipeline.clean.c4 import C4
from data_pipeline.clean.characters import Characters
from data_pipeline.clean.chinese import Chinese
from data_pipeline.clean.control import Control
from data_pipeline.clean.encoding import Encoding
from data_pipeline.clean.fineweb import FineWeb
from data_pipeline.clean.function import Function
from data_pipeline.clean.gopher_quality import GopherQuality
from data_pipeline.clean.html import Html
from data_pipeline.clean.language import Language
from data_pipeline.clean.length import Length
from data_pipeline.clean.pii import Pii
from data_pipeline.clean.repetition import Repetition
from data_pipeline.clean.unicode_form import UnicodeForm
from data_pipeline.clean.whitespace import Whitespace

CleaningStep = Annotated[
    Html | Encoding | UnicodeForm | Control | Whitespace | Pii | Language | Length | Characters | GopherQuality
    | Repetition | C4 | FineWeb | Chinese | BadWords | Function,
    Field(discriminator="step"),
]  # fmt: skip
"""What a cleaning step is: settings that build a function from a document to a document or a rejection."""
