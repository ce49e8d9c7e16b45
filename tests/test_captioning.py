"""`Encoder.caption`: pictures in, words out, from a model that was loaded like any other."""

from pathlib import Path

import pytest
import torch
from tiny import picture, write_tiny_model
from torch import nn

import oneclip
from oneclip import checkpoint
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg, PreprocessCfg
from oneclip.encoder import Encoder
from oneclip.errors import ConfigError, ImageError
from oneclip.model import CoCa, build_model

PIXELS = 32


def coca_cfg() -> ModelCfg:
    """A CoCa with CLIP's vocabulary that builds and runs in milliseconds."""
    widths = {"context_length": 20, "width": 32, "heads": 2, "layers": 1}
    vision = CLIPVisionCfg(
        layers=1, width=32, head_width=16, patch_size=16, image_size=PIXELS, output_tokens=True
    )
    text = CLIPTextCfg(embed_cls=True, output_tokens=True, **widths)
    return ModelCfg(32, vision, text, custom_text=True, multimodal_cfg=MultimodalCfg(**widths))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    cfg, path = coca_cfg(), tmp_path_factory.mktemp("coca") / "coca"
    model = build_model(cfg).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    checkpoint.write_folder(checkpoint.Loaded(model, cfg, PreprocessCfg(size=PIXELS), "tiny CoCa"), path)
    return path


@pytest.fixture(scope="module")
def coca(folder: Path) -> Encoder:
    return oneclip.load(folder, device="cpu")


def test_a_folder_with_a_decoder_loads_as_a_captioning_model(coca: Encoder) -> None:
    assert isinstance(coca.model, CoCa)
    assert not coca.model.training


def test_an_architecture_with_a_decoder_is_made_without_drawing_its_weights() -> None:
    blank = checkpoint.build_blank(coca_cfg())
    assert isinstance(blank, CoCa)
    assert blank.text_decoder.attn_mask.isinf().any()
    assert {name: t.shape for name, t in blank.state_dict().items()} == {
        name: t.shape for name, t in build_model(coca_cfg()).state_dict().items()
    }


def test_one_picture_has_one_caption_and_several_have_a_list(coca: Encoder) -> None:
    captions = coca.caption([picture(0), picture(1), picture(2)], batch_size=2, seq_len=9)
    assert [type(caption) for caption in captions] == [str] * 3
    assert coca.caption(picture(0), seq_len=9) == captions[0]
    assert coca.caption([]) == []


def test_captions_are_the_ids_that_the_model_writes_without_their_start_and_end(coca: Encoder) -> None:
    pixels = coca.preprocess(picture(3))[None]
    ids = coca.model.generate(pixels, seq_len=9, generation_type="top_k")[0].tolist()
    written = ids[1 : ids.index(49407)]
    assert (
        coca.caption(picture(3), seq_len=9, generation_type="top_k") == coca.tokenizer.decode(written).strip()
    )


def test_a_prompt_begins_the_caption(coca: Encoder) -> None:
    assert coca.caption(picture(0), prompt="a photo of", seq_len=12).startswith("a photo of ")


def test_a_picture_that_cannot_be_read_is_named(coca: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="missing"):
        coca.caption([picture(0), tmp_path / "missing.png"])


def test_a_model_without_a_decoder_says_so(tmp_path: Path) -> None:
    clip = oneclip.load(write_tiny_model(tmp_path / "tiny.safetensors"), device="cpu")
    with pytest.raises(ConfigError, match="has no decoder"):
        clip.caption(picture(0))


def test_captions_are_compared_however_long_they_are(coca: Encoder) -> None:
    texts = ["a cat", "a large ball beside two small red ones on a table", "the sun"]
    together = coca.encode_texts(texts)
    with torch.no_grad():
        rows = coca.model(torch.zeros(3, 3, PIXELS, PIXELS), coca.tokenizer(texts))["text_features"]
    torch.testing.assert_close(torch.from_numpy(together), rows, rtol=0, atol=1e-6)


def test_low_precision_captions_too(folder: Path) -> None:
    assert isinstance(
        oneclip.load(folder, device="cpu", precision="bf16").caption(picture(0), seq_len=7), str
    )
