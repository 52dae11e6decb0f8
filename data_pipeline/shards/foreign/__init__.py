"""Other software's tokens: used where they lie (Megatron, datatrove, Dolma), converted and written (MDS, litData)."""

from data_pipeline.shards.foreign.bring_in import Imported, bring_in
from data_pipeline.shards.foreign.find import FORMATS, Found, find

__all__ = ["FORMATS", "Found", "Imported", "bring_in", "find"]
