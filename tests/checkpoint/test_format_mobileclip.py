"""Apple's MobileCLIP checkpoints: read, written back, refused where they cannot be computed here."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor

from oneclip import zoo
from oneclip.checkpoint.formats import Converted, recognise
from oneclip.checkpoint.formats.mobileclip import CONVOLUTIONAL, NAMES, MobileCLIP
from oneclip.checkpoint.skip_init import outline
from oneclip.errors import CheckpointError, ConfigError
from oneclip.model import build_model


@lru_cache(maxsize=1)
def model(name: str) -> Converted:
    """An architecture with numbers that tell every place of every tensor, but for the largest tables."""
    cfg = zoo.architecture(name)
    outlined = outline(lambda: build_model(cfg)).state_dict()
    shapes = {name: tensor.shape for name, tensor in outlined.items()}
    shapes["text.token_embedding.weight"] = torch.Size((5, 512))
    tensors = {name: torch.arange(shape.numel()).float().reshape(shape) for name, shape in shapes.items()}
    return Converted({k: t * 0 if k in BIASES else t for k, t in tensors.items()}, cfg)


BIASES = ("visual.trunk.head.fc.bias", "visual.trunk.head.bias")


def written(name: str) -> dict[str, Tensor]:
    return MobileCLIP().write(model(name)).state_dict


@pytest.mark.parametrize("name", NAMES)
def test_a_round_trip_gives_the_same_tensors_bit_for_bit(name: str) -> None:
    read = MobileCLIP().read(written(name))
    assert read.state_dict.keys() == model(name).state_dict.keys()
    assert all(torch.equal(read.state_dict[key], tensor) for key, tensor in model(name).state_dict.items())
    again = MobileCLIP().write(Converted(read.state_dict, read.cfg)).state_dict
    assert again.keys() == written(name).keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in written(name).items())


@pytest.mark.parametrize("name", NAMES)
def test_the_names_say_which_architecture_it_is(name: str) -> None:
    form = recognise(written(name))
    assert form is not None
    assert form.name == "mobileclip"
    read = form.read(written(name))
    assert read.cfg == zoo.architecture(name)
    assert read.preprocess_cfg == zoo.preprocess_of(name)


def test_s0_is_refused_with_the_reason() -> None:
    theirs = {CONVOLUTIONAL: torch.zeros(1), "image_encoder.model.network.4.0.layer_scale": torch.zeros(1)}
    with pytest.raises(ConfigError, match="S0, whose text tower mixes convolutions in"):
        MobileCLIP().read(theirs)


def test_a_tensor_that_does_not_belong_there_is_named() -> None:
    theirs = {**written("MobileCLIP-B"), "image_encoder.model.reparam_conv.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"no place for: image_encoder\.model\.reparam_conv"):
        MobileCLIP().read(theirs)


def test_a_missing_last_layer_is_named() -> None:
    theirs = written("MobileCLIP-B")
    del theirs["image_encoder.model.classifier.proj"]
    with pytest.raises(CheckpointError, match="lacks the last layer"):
        MobileCLIP().read(theirs)


def test_a_bias_that_has_learned_something_is_not_thrown_away() -> None:
    state_dict = {**model("MobileCLIP-B").state_dict, BIASES[1]: torch.ones(512)}
    with pytest.raises(ConfigError, match="a bias that is not zero"):
        MobileCLIP().write(Converted(state_dict, model("MobileCLIP-B").cfg))


def test_another_model_is_not_written() -> None:
    with pytest.raises(ConfigError, match="only MobileCLIP-S1, MobileCLIP-S2, MobileCLIP-B"):
        MobileCLIP().write(Converted({}, zoo.architecture("ViT-B-32")))
