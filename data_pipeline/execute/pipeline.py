"""Which stages a preparation has."""

from data_pipeline.config import PrepareConfig
from data_pipeline.execute.job import Stage
from data_pipeline.execute.stages import clean, duplicates, scan, shards, tokenize, tokenizer


def stages_of(config: PrepareConfig) -> tuple[Stage, ...]:
    """Those that a preparation needs, in order."""
    stages = [scan.STAGE]
    if needs_store(config):
        stages.append(clean.STAGE)
    if config.deduplicate and config.deduplicate.exact:
        stages += [duplicates.EXACT, duplicates.UNITED]
    if config.deduplicate and config.deduplicate.near:
        stages += [duplicates.CANDIDATES, duplicates.CONFIRM]
    return (*stages, tokenizer.STAGE, tokenize.STAGE, shards.STAGE)


def needs_store(config: PrepareConfig) -> bool:
    """True when documents are needed again after they were cleaned, so that they have to be kept on disk between."""
    cleaned = bool(config.clean or config.decontaminate)
    return config.deduplicate is not None or (cleaned and config.tokenizer.kind == "train")
