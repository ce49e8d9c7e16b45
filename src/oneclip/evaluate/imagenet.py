"""ImageNet class names and prompt templates, as used for the published zero-shot results.

Both are from Radford et al. 2021, section 3.1.4, as OpenAI published them with the code.
A template has `{}` in place of the class name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

_PATTERNS = (  # [a|b] means one template with a and one with b
    "a photo of [a|the|many|one|my] {}.",
    "a [bad|good|bright|dark|blurry|cropped|close-up|pixelated|low resolution|jpeg corrupted|black and white] photo "
    "of [a|the] {}.",
    "a photo of [a|the] [clean|dirty|large|small|cool|nice|weird|hard to see] {}.",
    "[art|graffiti|a drawing|a sketch|a doodle|a painting|a sculpture|a tattoo|a rendering|a rendition] of [a|the] {}.",
    "[a|the] [cartoon|embroidered|origami|plastic|plushie|toy] {}.",
    "[a|the] {} in a video game.",
    "itap of [a|the|my] {}.",  # "I took a picture"
)


def _expand_choices(pattern: str) -> Iterator[str]:
    """Yield every combination of the choices in brackets; the last choice varies fastest."""
    parts = [part.split("|") for part in re.split(r"\[(.*?)\]", pattern)]
    return map("".join, product(*parts))


TEMPLATES: tuple[str, ...] = tuple(prompt for pattern in _PATTERNS for prompt in _expand_choices(pattern))
"""OpenAI's 80 templates, in a different order."""

SIMPLE_TEMPLATES: tuple[str, ...] = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven templates that OpenAI found to be nearly as accurate as all 80."""


@cache
def class_names() -> tuple[str, ...]:
    """Return the 1,000 class names in the order of their indices, as OpenAI edited them for CLIP."""
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return tuple(lines)
