"""The state dict is the contract: names and shapes of every architecture are the published ones."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oneclip import zoo
from oneclip.model import build_model, build_text_tower

DIGESTS = json.loads(Path(__file__).with_name("architecture_digests.json").read_text(encoding="utf-8"))


def digest(state_dict: Mapping[str, Tensor]) -> str:
    lines = sorted(f"{name} {list(tensor.shape)}" for name, tensor in state_dict.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_every_architecture_that_can_be_built_is_held_to_the_contract() -> None:
    held = {name.removesuffix(" text") for name in DIGESTS}
    of_transformers = {name for name in zoo.architectures() if zoo.architecture(name).text_cfg.hf_model_name}
    assert held | of_transformers == set(zoo.architectures())
    assert not held & of_transformers


@pytest.mark.parametrize("name", DIGESTS)
def test_a_state_dict_has_the_published_names_and_shapes(name: str) -> None:
    cfg = zoo.architecture(name.removesuffix(" text"))
    with torch.device("meta"):
        if name.endswith(" text"):
            model = build_text_tower(cfg.embed_dim, cfg.text_cfg, cfg.quick_gelu)
        else:
            model = build_model(cfg)
    assert digest(model.state_dict()) == DIGESTS[name]
