"""`open_clip.zero_shot_metadata`: class names and prompts of ImageNet; a prompt is a function of a class name."""

from __future__ import annotations

from collections.abc import Callable

from oneclip.evaluate import SIMPLE_TEMPLATES, TEMPLATES, class_names

__all__ = ["IMAGENET_CLASSNAMES", "OPENAI_IMAGENET_TEMPLATES", "SIMPLE_IMAGENET_TEMPLATES"]

OPENAI_IMAGENET_TEMPLATES: tuple[Callable[[str], str], ...] = tuple(prompt.format for prompt in TEMPLATES)
SIMPLE_IMAGENET_TEMPLATES: tuple[Callable[[str], str], ...] = tuple(
    prompt.format for prompt in SIMPLE_TEMPLATES
)
IMAGENET_CLASSNAMES: tuple[str, ...] = class_names()
