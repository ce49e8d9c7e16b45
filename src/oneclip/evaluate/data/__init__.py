"""Data sets of an evaluation: folders, tables, tars and published suites."""

from oneclip.evaluate.data.dataset import EvaluationDataset, Kind, Sample
from oneclip.evaluate.data.open_dataset import open_dataset
from oneclip.evaluate.data.suites import SUITES, open_suite

__all__ = ["SUITES", "EvaluationDataset", "Kind", "Sample", "open_dataset", "open_suite"]
