"""The state dict is the contract: names and shapes of every architecture are the published ones."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oneclip import zoo
from oneclip.model import build_model
from oneclip.model.siglip_names import is_siglip

DIGESTS = json.loads(Path(__file__).with_name("architecture_digests.json").read_text(encoding="utf-8"))


def digest(state_dict: Mapping[str, Tensor]) -> str:
    lines = sorted(f"{name} {list(tensor.shape)}" for name, tensor in state_dict.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def kind_of(name: str) -> str:
    """Which package an architecture needs beside ours, if any."""
    cfg = zoo.architecture(name)
    packages = [
        package
        for package, is_needed in (
            ("timm", cfg.vision_cfg.timm_model_name is not None and not is_siglip(cfg.vision_cfg)),
            ("transformers", cfg.text_cfg.hf_model_name is not None),
        )
        if is_needed
    ]
    return " and ".join(["CoCa"] * (cfg.multimodal_cfg is not None) + packages) or "none"


def test_every_architecture_is_held_to_the_contract() -> None:
    assert set(DIGESTS) == set(zoo.architectures())
    assert Counter(map(kind_of, DIGESTS)) == {
        "none": 81,
        "timm": 50,
        "transformers": 9,
        "CoCa": 3,
        "CoCa and transformers": 1,
    }


@cache
def built(name: str) -> tuple[str, zoo.Parameters]:
    """The digest of an architecture's state dict, and the number of its parameters."""
    with torch.device("meta"):
        model = build_model(zoo.architecture(name))
    image = sum(p.numel() for key, p in model.named_parameters() if key.startswith("visual."))
    return digest(model.state_dict()), zoo.Parameters(sum(p.numel() for p in model.parameters()), image)


@pytest.mark.parametrize("name", DIGESTS)
def test_a_state_dict_has_the_published_names_and_shapes(name: str) -> None:
    assert built(name)[0] == DIGESTS[name]


@pytest.mark.parametrize("name", DIGESTS)
def test_an_architecture_has_as_many_parameters_as_the_zoo_says(name: str) -> None:
    assert built(name)[1] == zoo.parameters(name)
