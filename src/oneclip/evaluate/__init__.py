"""How good a model is: zero-shot classification."""

from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES, TEMPLATES, class_names
from oneclip.evaluate.zero_shot import Template, prompts, zero_shot_classifier

__all__ = [
    "SIMPLE_TEMPLATES",
    "TEMPLATES",
    "Template",
    "class_names",
    "prompts",
    "zero_shot_classifier",
]
