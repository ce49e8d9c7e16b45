"""Values and small functions of the published modules, private ones too."""

from __future__ import annotations

from typing import Any

import cases_names
from parity_compare import compare

import clip
import open_clip

OURS = (  # values that are others on purpose
    "open_clip.coca_model.GENERATION_TYPES",  # theirs are classes of transformers
    "open_clip.coca_model._has_transformers",  # captions are written without it
    "open_clip.factory._MODEL_CONFIGS",  # fields at their default may be left out
    "open_clip.tokenizer._nltk_init",  # true there once nltk's data was fetched
    "open_clip.push_to_hf_hub._has_hf_hub",  # theirs needs an older one than is here
)
PLUS = "ViT-B-16-plus-240"  # whose table there has one repository that is that of another epoch


def test_names_of_open_clip_mean_what_they_mean_there(published_open_clip: Any) -> None:
    compare_names(open_clip, published_open_clip["names"])


def test_names_of_clip_mean_what_they_mean_there(published_clip: Any) -> None:
    compare_names(clip, published_clip["names"])


def compare_names(package: Any, theirs: dict[str, Any]) -> None:
    ours, expected = cases_names.observe(package), theirs["values"]
    expected = {name: value for name, value in expected.items() if name not in OURS}
    for values in (ours["values"], expected):
        if package is open_clip:
            values["open_clip.pretrained._PRETRAINED"][PLUS].pop("laion400m_e32")
            values["open_clip.pretrained._VITB16_PLUS_240"].pop("laion400m_e32")
    compare("names", ours["values"], expected, 1e-5)
    compare("names", ours["functions"], theirs["functions"], 1e-5)
