"""What every group of settings of the data pipeline has in common."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Settings(BaseModel):
    """A group of settings: unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def home(path: str) -> str:
    """`~/books` as the shell would read it; a folder literally named ~ is never what is meant."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise ValueError(f"there is no home folder for {Path(path).parts[0]}") from None


Location = Annotated[Path, AfterValidator(lambda path: Path(home(str(path))))]
"""A path of this machine."""
Place = Annotated[str, AfterValidator(home)]
"""A path, a glob or a URL that fsspec knows."""
