"""HTML report of evaluations: one self-contained page."""

from oneclip.evaluate.report.page import write_report

__all__ = ["write_report"]
