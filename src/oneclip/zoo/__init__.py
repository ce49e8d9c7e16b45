"""Which models exist: architectures and trained weights as data, and what a name means.

`architectures.json` has a line for each architecture: the fields of `ModelCfg` that differ from their
defaults, or from those of the architecture it is `like`. `weights.json` has a line for each set of trained
weights, `parameters.json` and `text_towers.json` a line for what was counted and what lies elsewhere.
"""

from oneclip.zoo.catalogue import (
    OPENAI_NAMES,
    Pretrained,
    architecture,
    architectures,
    canonical_name,
    preprocess_of,
    pretrained,
    pretrained_tags,
    published,
)
from oneclip.zoo.families import FAMILIES, Family, Parameters, extras, families, family, kind, parameters
from oneclip.zoo.resolve import FOR_PHOTOGRAPHS, POCKET, Source, pocket_path, resolve
from oneclip.zoo.search import CLIP_TOKENIZER, Found, everything, list_models, search
from oneclip.zoo.text_towers import text_tower, text_towers

__all__ = [
    "CLIP_TOKENIZER",
    "FAMILIES",
    "FOR_PHOTOGRAPHS",
    "OPENAI_NAMES",
    "POCKET",
    "Family",
    "Found",
    "Parameters",
    "Pretrained",
    "Source",
    "architecture",
    "architectures",
    "canonical_name",
    "everything",
    "extras",
    "families",
    "family",
    "kind",
    "list_models",
    "parameters",
    "pocket_path",
    "preprocess_of",
    "pretrained",
    "pretrained_tags",
    "published",
    "resolve",
    "search",
    "text_tower",
    "text_towers",
]
