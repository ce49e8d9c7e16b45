"""Apple's MobileCLIP checkpoints: read, written back, refused if not supported."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor

from oneclip import zoo
from oneclip.checkpoint.formats import ForeignCheckpoint, NativeCheckpoint, detect_format
from oneclip.checkpoint.formats.mobileclip import CONVOLUTIONAL, NAMES, MobileCLIP
from oneclip.checkpoint.skip_init import build_on_meta
from oneclip.errors import CheckpointError, ConfigError
from oneclip.model import build_model


@lru_cache(maxsize=1)
def model(name: str) -> NativeCheckpoint:
    """An architecture with different numbers at every position; the token table is shortened."""
    cfg = zoo.architecture(name)
    outlined = build_on_meta(lambda: build_model(cfg)).state_dict()
    shapes = {name: tensor.shape for name, tensor in outlined.items()}
    shapes["text.token_embedding.weight"] = torch.Size((5, 512))
    tensors = {name: torch.arange(shape.numel()).float().reshape(shape) for name, shape in shapes.items()}
    return NativeCheckpoint({k: t * 0 if k in BIASES else t for k, t in tensors.items()}, cfg)


BIASES = ("visual.trunk.head.fc.bias", "visual.trunk.head.bias")


def written(name: str) -> dict[str, Tensor]:
    return dict(MobileCLIP().write(model(name)).state_dict)


@pytest.mark.parametrize("name", NAMES)
def test_a_round_trip_gives_the_same_tensors_bit_for_bit(name: str) -> None:
    theirs = written(name)
    read = MobileCLIP().read(ForeignCheckpoint(theirs))
    assert read.state_dict.keys() == model(name).state_dict.keys()
    assert all(torch.equal(read.state_dict[key], tensor) for key, tensor in model(name).state_dict.items())
    again = MobileCLIP().write(NativeCheckpoint(read.state_dict, read.cfg)).state_dict
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in theirs.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_architecture_is_inferred_from_names(name: str) -> None:
    theirs = written(name)
    form = detect_format(theirs)
    assert form is not None
    assert form.name == "mobileclip"
    read = form.read(ForeignCheckpoint(theirs))
    assert read.cfg == zoo.architecture(name)
    assert read.preprocess_cfg == zoo.preprocess_of(name)


def test_s0_is_refused_with_the_reason() -> None:
    theirs = {CONVOLUTIONAL: torch.zeros(1), "image_encoder.model.network.4.0.layer_scale": torch.zeros(1)}
    with pytest.raises(ConfigError, match="S0 is not supported: its text tower contains convolutions"):
        MobileCLIP().read(ForeignCheckpoint(theirs))


def test_an_unknown_tensor_is_named() -> None:
    theirs = {**written("MobileCLIP-B"), "image_encoder.model.reparam_conv.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"no tensors named: image_encoder\.model\.reparam_conv"):
        MobileCLIP().read(ForeignCheckpoint(theirs))


def test_a_missing_last_layer_is_named() -> None:
    theirs = written("MobileCLIP-B")
    del theirs["image_encoder.model.classifier.proj"]
    with pytest.raises(CheckpointError, match="the last layer of the image tower is missing"):
        MobileCLIP().read(ForeignCheckpoint(theirs))


def test_a_nonzero_bias_is_not_dropped() -> None:
    state_dict = {**model("MobileCLIP-B").state_dict, BIASES[1]: torch.ones(512)}
    with pytest.raises(ConfigError, match="a bias that is not zero"):
        MobileCLIP().write(NativeCheckpoint(state_dict, model("MobileCLIP-B").cfg))


def test_other_models_are_not_written() -> None:
    with pytest.raises(ConfigError, match="only MobileCLIP-S1, MobileCLIP-S2, MobileCLIP-B"):
        MobileCLIP().write(NativeCheckpoint({}, zoo.architecture("ViT-B-32")))
