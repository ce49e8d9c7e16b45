"""SigLIP's text tower reads the padding: every function pads to the full length or refuses shorter rows.

A text with another padding would give plausible but wrong numbers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_cfg
from tiny_tokenizers import siglip, siglip2

from oneclip.config import CLIPTextCfg, ModelCfg, PreprocessCfg
from oneclip.encoder import Encoder
from oneclip.errors import ShapeError
from oneclip.image import Preprocess
from oneclip.model import build_model
from oneclip.text import get_tokenizer

SHORT, LONG = "a dog", "a photo of the two small brown dogs running quickly through green grass"


@pytest.fixture(params=[siglip, siglip2], ids=["siglip", "siglip2"])
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> Encoder:
    folder = request.param(tmp_path)
    text = CLIPTextCfg(
        context_length=64,
        vocab_size=700,
        width=16,
        heads=2,
        layers=2,
        no_causal_mask=True,
        pool_type="last",
        proj_bias=True,
        hf_tokenizer_name=str(folder),
        tokenizer_kwargs={"clean": "canonicalize"},
    )
    return encoder_of(tiny_cfg(text_cfg=text, custom_text=True, init_logit_bias=-10.0))


def encoder_of(cfg: ModelCfg) -> Encoder:
    torch.manual_seed(0)
    model, pixels = build_model(cfg).eval(), PreprocessCfg(size=cfg.vision_cfg.image_size)
    return Encoder(model, Preprocess(pixels), get_tokenizer(cfg.text_cfg), cfg, name="tiny")


def expected(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Encode full rows with the tower itself."""
    with torch.no_grad():
        rows = encoder.model.encode_text(encoder.tokenizer(texts), normalize=True)
    return rows.numpy()


def test_the_padding_changes_the_features(encoder: Encoder) -> None:
    """Without this, the other tests would prove nothing."""
    ids = encoder.tokenizer([SHORT])
    ids[:, 20:] = 7
    with torch.no_grad():
        features = encoder.model.encode_text(ids, normalize=True).numpy()
    assert np.abs(features - expected(encoder, [SHORT])).max() > 1e-2


def test_rows_of_short_texts_have_the_full_length(encoder: Encoder) -> None:
    assert encoder.tokenizer(SHORT).shape == (1, 64)
    assert encoder.tokenizer([SHORT, LONG]).shape == (2, 64)


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_a_text_has_the_same_embedding_alone_and_beside_a_long_one(encoder: Encoder, batch_size: int) -> None:
    alone = encoder.encode_texts(SHORT)
    together = encoder.encode_texts([LONG, SHORT, "two dogs", SHORT], batch_size=batch_size)
    np.testing.assert_allclose(alone, expected(encoder, [SHORT]), atol=1e-6)
    np.testing.assert_allclose(together, expected(encoder, [LONG, SHORT, "two dogs", SHORT]), atol=1e-6)


def test_the_model_trims_nothing(encoder: Encoder) -> None:
    ids = encoder.tokenizer([SHORT])
    assert encoder.model.trim(ids) is ids


def test_shorter_rows_are_refused(encoder: Encoder) -> None:
    ids = encoder.tokenizer([SHORT])
    assert encoder.encode_tokens(ids).shape == (1, encoder.embed_dim)
    for length in (1, 20, 63):
        with pytest.raises(ShapeError, match=r"\(B, L\), L = 64 \(it reads (the )?padding.*"):
            encoder.encode_tokens(ids[:, :length])


@pytest.mark.parametrize("length", [1, 20, 63])
def test_the_model_itself_refuses_shorter_rows(encoder: Encoder, length: int) -> None:
    ids = encoder.tokenizer([SHORT], context_length=length)
    pixels = torch.zeros(1, 3, *encoder.image_size)
    for call in (
        lambda: encoder.model.encode_text(ids),
        lambda: encoder.model.text(ids),
        lambda: encoder.model(pixels, ids),
        lambda: encoder.model.get_logits(pixels, ids),
        lambda: encoder.model.forward_intermediates(text=ids),
    ):
        with pytest.raises(ShapeError, match=r"L = 64 \(it reads (the )?padding.*; found \(1, "):
            call()


def test_labels_are_encoded_in_full_rows(encoder: Encoder) -> None:
    np.testing.assert_allclose(
        encoder.encode_labels([SHORT, LONG]), expected(encoder, [SHORT, LONG]), atol=1e-6
    )


def test_towers_that_do_not_read_padding_accept_shorter_rows() -> None:
    encoder = encoder_of(tiny_cfg())
    ids = encoder.tokenizer([SHORT])
    torch.testing.assert_close(encoder.encode_tokens(ids[:, :10]), encoder.encode_tokens(ids))


@pytest.mark.parametrize("pool_type", ["argmax", "first", "last"])
def test_every_tower_without_a_causal_mask_needs_full_rows(pool_type: str) -> None:
    cfg = tiny_cfg()
    cfg = replace(cfg, text_cfg=replace(cfg.text_cfg, no_causal_mask=True, pool_type=pool_type))
    encoder = encoder_of(cfg)
    with pytest.raises(ShapeError, match="L = 77"):
        encoder.encode_tokens(encoder.tokenizer([SHORT])[:, :10])
