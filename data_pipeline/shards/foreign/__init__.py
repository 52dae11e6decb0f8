"""Other software's tokens: used where they lie (Megatron, datatrove, Dolma), converted and written (MDS, litData)."""

from data_pipeline.shards.foreign.bring_in import Imported, bring_in
from data_pipeline.shards.foreign.find import FORMATS, Found, find
from data_pipeline.shards.foreign.send_out import EXPORTS, send_out

__all__ = ["EXPORTS", "FORMATS", "Found", "Imported", "bring_in", "find", "send_out"]
