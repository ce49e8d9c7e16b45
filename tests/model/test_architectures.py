"""The contract: every architecture has the published names and shapes, activations, epsilons and heads.

What is expected was written down by `tests/parity/architecture_digests.py`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from torch import nn

from oneclip import zoo
from oneclip.checkpoint.skip_init import build_on_meta
from oneclip.model import build_model
from oneclip.model.siglip_names import is_siglip

DIGESTS = json.loads(Path(__file__).with_name("architecture_digests.json").read_text(encoding="utf-8"))


def digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def shapes(model: nn.Module) -> Iterator[str]:
    for name, tensor in model.state_dict().items():
        yield f"{name} {list(tensor.shape)}"


def settings(model: nn.Module) -> Iterator[str]:
    """What changes the numbers and no shape: kinds of GELU, the epsilon of norms, numbers of heads."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in ("GELU", "GELUTanh", "QuickGELU"):
            yield f"{name} {'tanh' if kind == 'GELUTanh' else getattr(module, 'approximate', 'quick')}"
        if isinstance(getattr(module, "eps", None), float):
            yield f"{name} eps {module.eps}"
        if isinstance(getattr(module, "num_heads", None), int):
            yield f"{name} heads {module.num_heads}"


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
def built(name: str) -> tuple[list[str], zoo.Parameters]:
    """The digests of an architecture, and the number of its parameters."""
    model = build_on_meta(lambda: build_model(zoo.architecture(name)))
    image = sum(p.numel() for key, p in model.named_parameters() if key.startswith("visual."))
    digests = [digest(shapes(model)), digest(settings(model))]
    return digests, zoo.Parameters(sum(p.numel() for p in model.parameters()), image)


@pytest.mark.parametrize("name", DIGESTS)
def test_a_state_dict_has_the_published_names_and_shapes(name: str) -> None:
    assert built(name)[0][0] == DIGESTS[name][0]


@pytest.mark.parametrize("name", DIGESTS)
def test_activations_epsilons_and_heads_are_the_published_ones(name: str) -> None:
    assert built(name)[0][1] == DIGESTS[name][1]


@pytest.mark.parametrize("name", DIGESTS)
def test_an_architecture_has_as_many_parameters_as_the_zoo_says(name: str) -> None:
    assert built(name)[1] == zoo.parameters(name)
