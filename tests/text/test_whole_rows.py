"""SigLIP's text tower reads the padding of its rows, too: a caption padded to anything but the full length gives other
numbers, which look as good. Here no way leads to them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_tokenizers import siglip, siglip2
from tiny import tiny_cfg

from oneclip.config import CLIPTextCfg, ModelCfg, PreprocessCfg
from oneclip.encoder import Encoder
from oneclip.errors import ShapeError
from oneclip.image import Preprocess
from oneclip.model import build_model
from oneclip.text import get_tokenizer

SHORT, LONG = "a dog", "a photo of the two small brown dogs running quickly through green grass"


@pytest.fixture(params=[siglip, siglip2], ids=["siglip", "siglip2"])
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Encoder:
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


def expected(clip: Encoder, captions: list[str]) -> np.ndarray:
    """What the tower itself makes of whole rows."""
    with torch.no_grad():
        rows = clip.model.encode_text(clip.tokenizer(captions), normalize=True)
    return rows.numpy()


def test_what_follows_a_caption_matters_to_this_tower(clip: Encoder) -> None:
    """Else the other tests would show nothing."""
    ids = clip.tokenizer([SHORT])
    ids[:, 20:] = 7
    with torch.no_grad():
        features = clip.model.encode_text(ids, normalize=True).numpy()
    assert np.abs(features - expected(clip, [SHORT])).max() > 1e-2


def test_rows_have_the_full_length_however_short_the_captions_are(clip: Encoder) -> None:
    assert clip.tokenizer(SHORT).shape == (1, 64)
    assert clip.tokenizer([SHORT, LONG]).shape == (2, 64)


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_a_caption_gives_the_same_alone_and_beside_a_long_one(clip: Encoder, batch_size: int) -> None:
    alone = clip.encode_texts(SHORT)
    together = clip.encode_texts([LONG, SHORT, "two dogs", SHORT], batch_size=batch_size)
    np.testing.assert_allclose(alone, expected(clip, [SHORT]), atol=1e-6)
    np.testing.assert_allclose(together, expected(clip, [LONG, SHORT, "two dogs", SHORT]), atol=1e-6)


def test_the_model_trims_nothing(clip: Encoder) -> None:
    ids = clip.tokenizer([SHORT])
    assert clip.model.trim(ids) is ids


def test_shorter_rows_are_refused(clip: Encoder) -> None:
    ids = clip.tokenizer([SHORT])
    assert clip.encode_tokens(ids).shape == (1, clip.embed_dim)
    for length in (1, 20, 63):
        with pytest.raises(ShapeError, match=r"\(B, L\), L = 64 \(it reads the padding, too\)"):
            clip.encode_tokens(ids[:, :length])


@pytest.mark.parametrize("length", [1, 20, 63])
def test_the_model_itself_refuses_shorter_rows(clip: Encoder, length: int) -> None:
    ids = clip.tokenizer([SHORT], context_length=length)
    pixels = torch.zeros(1, 3, *clip.image_size)
    for call in (
        lambda: clip.model.encode_text(ids),
        lambda: clip.model.text(ids),
        lambda: clip.model(pixels, ids),
        lambda: clip.model.get_logits(pixels, ids),
        lambda: clip.model.forward_intermediates(text=ids),
    ):
        with pytest.raises(ShapeError, match=r"L = 64 \(it reads the padding, too\); found \(1, "):
            call()


def test_labels_are_encoded_in_whole_rows(clip: Encoder) -> None:
    np.testing.assert_allclose(clip.encode_labels([SHORT, LONG]), expected(clip, [SHORT, LONG]), atol=1e-6)


def test_towers_that_read_no_padding_take_shorter_rows() -> None:
    clip = encoder_of(tiny_cfg())
    ids = clip.tokenizer([SHORT])
    torch.testing.assert_close(clip.encode_tokens(ids[:, :10]), clip.encode_tokens(ids))


@pytest.mark.parametrize("pool_type", ["argmax", "first", "last"])
def test_every_tower_without_a_causal_mask_takes_whole_rows(pool_type: str) -> None:
    cfg = tiny_cfg()
    cfg = replace(cfg, text_cfg=replace(cfg.text_cfg, no_causal_mask=True, pool_type=pool_type))
    clip = encoder_of(cfg)
    with pytest.raises(ShapeError, match="L = 77"):
        clip.encode_tokens(clip.tokenizer([SHORT])[:, :10])
