"""Evaluation of a model: zero-shot classification and image-text retrieval."""

from oneclip.evaluate.data import EvaluationDataset, open_dataset, open_suite
from oneclip.evaluate.feature_extractor import EncoderAdapter, FeatureExtractor, ModuleAdapter
from oneclip.evaluate.image_folder import Classification
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES, TEMPLATES, class_names
from oneclip.evaluate.linear_probe import LinearProbe
from oneclip.evaluate.pocket_heldout import load_pocket_heldout
from oneclip.evaluate.recall import ranks, recall_at_k
from oneclip.evaluate.retrieval import Retrieval
from oneclip.evaluate.tasks import EvaluationHook, Task, TaskSuite, open_task
from oneclip.evaluate.templates import read_templates
from oneclip.evaluate.zero_shot import zero_shot_classifier
from oneclip.text.prompts import Template, fill_templates

__all__ = [
    "SIMPLE_TEMPLATES",
    "TEMPLATES",
    "Classification",
    "EncoderAdapter",
    "EvaluationDataset",
    "EvaluationHook",
    "FeatureExtractor",
    "LinearProbe",
    "ModuleAdapter",
    "Retrieval",
    "Task",
    "TaskSuite",
    "Template",
    "class_names",
    "fill_templates",
    "load_pocket_heldout",
    "open_dataset",
    "open_suite",
    "open_task",
    "ranks",
    "read_templates",
    "recall_at_k",
    "zero_shot_classifier",
]
