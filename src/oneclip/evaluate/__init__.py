"""How good a model is: zero-shot classification, and retrieval between pictures and captions."""

from oneclip.evaluate.feature_extractor import OfEncoder, OfModule, Subject
from oneclip.evaluate.image_folder import Classification
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES, TEMPLATES, class_names
from oneclip.evaluate.pocket_heldout import pocket_sample
from oneclip.evaluate.recall import ranks, recall_at_k
from oneclip.evaluate.retrieval import Retrieval
from oneclip.evaluate.tasks import HeldOut, Task, Together, open_task
from oneclip.evaluate.templates import read_templates
from oneclip.evaluate.zero_shot import zero_shot_classifier
from oneclip.text.prompts import Template, prompts

__all__ = [
    "SIMPLE_TEMPLATES",
    "TEMPLATES",
    "Classification",
    "HeldOut",
    "OfEncoder",
    "OfModule",
    "Retrieval",
    "Subject",
    "Task",
    "Template",
    "Together",
    "class_names",
    "open_task",
    "pocket_sample",
    "prompts",
    "ranks",
    "read_templates",
    "recall_at_k",
    "zero_shot_classifier",
]
