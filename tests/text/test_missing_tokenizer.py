"""A model without a tokenizer encodes images, and names the missing files at the first text."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_tokenizers
import torch
from tiny import PIXELS, picture
from torch.nn import functional as F

import oneclip
from oneclip import errors

transformers = pytest.importorskip("transformers")


@pytest.fixture
def siglip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a SigLIP as transformers' `model.save_pretrained` does, and disable the network."""
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        text_config={**sizes, "vocab_size": 32000, "max_position_embeddings": 16, "projection_size": 32},
        vision_config={**sizes, "image_size": PIXELS, "patch_size": 16},
    )
    folder = tmp_path / "siglip"
    transformers.SiglipModel(config).save_pretrained(folder)
    pixels = {"image_processor_type": "SiglipImageProcessor", "size": {"height": PIXELS, "width": PIXELS}}
    pixels |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder


def test_images_are_encoded(siglip: Path) -> None:
    encoder = oneclip.load(siglip, device="cpu")
    theirs = transformers.SiglipModel.from_pretrained(siglip).eval()
    images = [picture(i) for i in range(3)]
    with torch.no_grad():
        pixels = torch.stack([encoder.preprocess(image) for image in images])
        expected = F.normalize(theirs.vision_model(pixels).pooler_output, dim=-1)
    np.testing.assert_allclose(encoder.encode_images(images), expected.numpy(), atol=1e-5)
    assert encoder.encode_texts([]).shape == (0, 32)
    assert repr(encoder).startswith("<Encoder")
    assert pickle.loads(pickle.dumps(encoder)).encode_images(images).shape == (3, 32)


@pytest.mark.parametrize("act", ["encode_texts", "encode_labels", "similarity", "tokenizer"])
def test_the_first_text_names_the_missing_files(siglip: Path, act: str) -> None:
    encoder = oneclip.load(siglip, device="cpu")
    acts: dict[str, Callable[[], object]] = {
        "encode_texts": lambda: encoder.encode_texts("a dog"),
        "encode_labels": lambda: encoder.encode_labels(["a dog"]),
        "similarity": lambda: encoder.similarity(picture(), ["a dog"]),
        "tokenizer": lambda: encoder.tokenizer,
    }
    message = (
        r"siglip has no tokenizer: copy tokenizer\.json and tokenizer_config\.json into it.*spiece\.model"
    )
    for _ in range(2):
        with pytest.raises(errors.TokenizerNotFoundError, match=message) as caught:
            acts[act]()
    assert isinstance(caught.value, FileNotFoundError)
    assert "timm/ViT-B-16-SigLIP is not on this machine" in str(caught.value)


def test_a_tokenizer_that_is_added_later_is_found(siglip: Path) -> None:
    encoder = oneclip.load(siglip, device="cpu")
    with pytest.raises(errors.TokenizerNotFoundError):
        encoder.encode_texts("a dog")
    tiny_tokenizers.siglip(siglip)
    np.testing.assert_array_equal(
        encoder.encode_texts(["a dog", "a cat"]),
        oneclip.load(siglip, device="cpu").encode_texts(["a dog", "a cat"]),
    )


def test_loading_a_folder_makes_no_request_for_its_tokenizer(
    siglip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONECLIP_OFFLINE")

    def fail(*arguments: object, **named: object) -> None:
        raise AssertionError("a request was made")

    monkeypatch.setattr("oneclip.hub.hub_files", fail)
    oneclip.load(siglip, device="cpu").encode_images(picture())


def test_a_damaged_tokenizer_is_not_reported_as_missing(siglip: Path) -> None:
    tiny_tokenizers.siglip(siglip)
    (siglip / "tokenizer.json").write_text("{")
    with pytest.raises(errors.CheckpointError, match=r"tokenizer\.json"):
        oneclip.load(siglip, device="cpu")


def test_a_server_refuses_to_start(siglip: Path) -> None:
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from oneclip.serve.app import create_app
    from oneclip.serve.settings import ServeSettings

    with (
        pytest.raises(errors.TokenizerNotFoundError, match="tokenizer"),
        TestClient(create_app(ServeSettings(model=str(siglip)))),
    ):
        pass
