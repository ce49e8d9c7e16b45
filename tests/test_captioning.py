"""`Encoder.caption`: captions of images, by a model that is loaded like any other."""

from pathlib import Path

import pytest
import torch
from tiny import PIXELS, coca_cfg, picture, write_tiny_coca, write_tiny_model

import oneclip
from oneclip import checkpoint
from oneclip.encoder import Encoder
from oneclip.errors import ConfigError, ImageError
from oneclip.model import CoCa, build_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coca(tmp_path_factory.mktemp("coca") / "coca")


@pytest.fixture(scope="module")
def coca(folder: Path) -> Encoder:
    return oneclip.load(folder, device="cpu")


def test_a_folder_with_a_decoder_loads_as_a_captioning_model(coca: Encoder) -> None:
    assert isinstance(coca.model, CoCa)
    assert not coca.model.training


def test_an_architecture_with_a_decoder_is_made_without_drawing_its_weights() -> None:
    blank = checkpoint.build_uninitialized(coca_cfg())
    assert isinstance(blank, CoCa)
    assert blank.text_decoder.attn_mask.isinf().any()
    assert {name: t.shape for name, t in blank.state_dict().items()} == {
        name: t.shape for name, t in build_model(coca_cfg()).state_dict().items()
    }


def test_one_image_gives_one_caption_and_several_give_a_list(coca: Encoder) -> None:
    captions = coca.caption([picture(0), picture(1), picture(2)], batch_size=2, seq_len=9)
    assert [type(caption) for caption in captions] == [str] * 3
    assert coca.caption(picture(0), seq_len=9) == captions[0]
    assert coca.caption([]) == []


def test_captions_are_streamed_in_batches_without_unreadable_images(coca: Encoder, tmp_path: Path) -> None:
    images = [picture(0), tmp_path / "missing.png", picture(1), picture(2)]
    parts = list(coca.stream_captions(images, batch_size=3, on_error="skip", seq_len=9))
    assert [part.kept for part in parts] == [[0, 2], [3]]
    assert [one.index for part in parts for one in part.skipped] == [1]
    captions = [caption for part in parts for caption in part.captions]
    assert captions == coca.caption([picture(0), picture(1), picture(2)], seq_len=9)


def test_captions_are_the_generated_ids_without_start_and_end(coca: Encoder) -> None:
    pixels = coca.preprocess(picture(3))[None]
    ids = coca.model.generate(pixels, seq_len=9, generation_type="top_k")[0].tolist()
    written = ids[1 : ids.index(49407)]
    assert (
        coca.caption(picture(3), seq_len=9, generation_type="top_k") == coca.tokenizer.decode(written).strip()
    )


def test_a_caption_begins_with_the_prompt(coca: Encoder) -> None:
    assert coca.caption(picture(0), prompt="a photo of", seq_len=12).startswith("a photo of ")


def test_an_unreadable_image_is_named(coca: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="missing"):
        coca.caption([picture(0), tmp_path / "missing.png"])


def test_a_model_without_a_decoder_is_refused(tmp_path: Path) -> None:
    clip = oneclip.load(write_tiny_model(tmp_path / "tiny.safetensors"), device="cpu")
    with pytest.raises(ConfigError, match="has no decoder"):
        clip.caption(picture(0))


def test_texts_of_different_lengths_have_the_features_of_the_model(coca: Encoder) -> None:
    texts = ["a cat", "a large ball beside two small red ones on a table", "the sun"]
    together = coca.encode_texts(texts)
    with torch.no_grad():
        rows = coca.model(torch.zeros(3, 3, PIXELS, PIXELS), coca.tokenizer(texts))["text_features"]
    torch.testing.assert_close(torch.from_numpy(together), rows, rtol=0, atol=1e-6)


def test_a_model_in_low_precision_writes_captions(folder: Path) -> None:
    assert isinstance(
        oneclip.load(folder, device="cpu", precision="bf16").caption(picture(0), seq_len=7), str
    )
