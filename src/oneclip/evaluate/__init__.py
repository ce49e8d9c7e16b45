"""Evaluation of models: zero-shot classification, retrieval, linear probes and few-shot learning, with reports."""

from oneclip.evaluate.comparison import Comparison, compare_results
from oneclip.evaluate.data import EvaluationDataset, Sample, open_dataset, open_suite
from oneclip.evaluate.feature_extractor import EncoderAdapter, FeatureExtractor, ModuleAdapter
from oneclip.evaluate.image_folder import Classification
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES, TEMPLATES, class_names
from oneclip.evaluate.linear_probe import LinearProbe
from oneclip.evaluate.pocket_heldout import load_pocket_heldout
from oneclip.evaluate.published import PublishedFigure, doubtful_figures, published_figures
from oneclip.evaluate.recall import ranks, recall_at_k
from oneclip.evaluate.report import write_report
from oneclip.evaluate.result import Result
from oneclip.evaluate.result_files import build_table
from oneclip.evaluate.retrieval import Retrieval
from oneclip.evaluate.run import EvaluationEvents, evaluate, evaluate_all
from oneclip.evaluate.scoring import TaskOptions
from oneclip.evaluate.tasks import EvaluationHook, Task, TaskSuite, open_task
from oneclip.evaluate.templates import read_templates
from oneclip.evaluate.zero_shot import zero_shot_classifier
from oneclip.text.prompts import Template, fill_templates

__all__ = [
    "SIMPLE_TEMPLATES",
    "TEMPLATES",
    "Classification",
    "Comparison",
    "EncoderAdapter",
    "EvaluationDataset",
    "EvaluationEvents",
    "EvaluationHook",
    "FeatureExtractor",
    "LinearProbe",
    "ModuleAdapter",
    "PublishedFigure",
    "Result",
    "Retrieval",
    "Sample",
    "Task",
    "TaskOptions",
    "TaskSuite",
    "Template",
    "build_table",
    "class_names",
    "compare_results",
    "doubtful_figures",
    "evaluate",
    "evaluate_all",
    "fill_templates",
    "load_pocket_heldout",
    "open_dataset",
    "open_suite",
    "open_task",
    "published_figures",
    "ranks",
    "read_templates",
    "recall_at_k",
    "write_report",
    "zero_shot_classifier",
]
