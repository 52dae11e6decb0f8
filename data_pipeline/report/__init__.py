"""What a preparation did, as one page of HTML."""

from data_pipeline.report.page import write_report

__all__ = ["write_report"]
