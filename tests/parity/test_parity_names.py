"""Values and small functions of the published modules, private ones too."""

from __future__ import annotations

from typing import Any

import cases_names
from parity_compare import compare

import clip
import open_clip

OURS = (  # values that differ on purpose
    "open_clip.coca_model.GENERATION_TYPES",  # the published values are classes of transformers
    "open_clip.coca_model._has_transformers",  # our captioning does not need transformers
    "open_clip.factory._MODEL_CONFIGS",  # fields with default values may be missing
    "open_clip.tokenizer._nltk_init",  # True in the published package after the download of nltk's data
    "open_clip.push_to_hf_hub._has_hf_hub",  # the published package needs an older huggingface_hub
)
PLUS = "ViT-B-16-plus-240"  # the published table names a repository of another epoch


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
