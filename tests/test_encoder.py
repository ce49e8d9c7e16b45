"""Encoder: embeddings of images and texts in every form, and clear errors."""

import io
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import DIM, PIXELS, picture, write_tiny_model
from torch.nn import functional as F

import oneclip
from oneclip import errors
from oneclip.encoder import Encoder
from tests import programs


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return oneclip.load(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"), device="cpu")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    for i in range(5):
        picture(i).save(tmp_path / f"{i}.png")
    return [tmp_path / f"{i}.png" for i in range(5)]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.png"
    path.write_bytes(b"this is not an image")
    return path


def features_of(clip: Encoder, images: list[Image.Image]) -> np.ndarray:
    """Encode images by the model itself, one at a time."""
    with torch.no_grad():
        rows = [clip.model.encode_image(clip.preprocess(image)[None], normalize=True) for image in images]
    return torch.cat(rows).numpy()


# --------------------------------------------------------------------------------------------------- images


def test_an_image_in_any_form_has_the_same_embedding(clip: Encoder, paths: list[Path]) -> None:
    data = paths[1].read_bytes()
    image = Image.open(paths[1])
    forms = [str(paths[1]), paths[1], data, io.BytesIO(data), image, np.asarray(image)]
    features = clip.encode_images(forms)
    assert features.shape == (6, DIM)
    np.testing.assert_allclose(features, np.repeat(features_of(clip, [image]), 6, axis=0), atol=1e-6)


def test_features_are_float32_of_unit_length(clip: Encoder, paths: list[Path]) -> None:
    features = clip.encode_images(paths)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_batches_change_neither_order_nor_numbers(clip: Encoder, paths: list[Path], batch_size: int) -> None:
    expected = features_of(clip, [picture(i) for i in range(5)])
    np.testing.assert_allclose(clip.encode_images(paths, batch_size=batch_size), expected, atol=1e-6)


def test_one_image_gives_one_row_and_no_image_gives_none(clip: Encoder, paths: list[Path]) -> None:
    assert clip.encode_images(paths[0]).shape == (1, DIM)
    assert clip.encode_images(np.zeros((9, 9, 3), np.uint8)).shape == (1, DIM)
    assert clip.encode_images([]).shape == (0, DIM)
    assert clip.encode_images([]).dtype == np.float32
    assert clip.encode_images([], on_error="skip") == (pytest.approx(np.empty((0, DIM))), [], [])


def test_an_array_of_four_axes_is_several_images(clip: Encoder) -> None:
    batch = np.stack([np.asarray(picture(i)) for i in range(3)])
    np.testing.assert_array_equal(clip.encode_images(batch), clip.encode_images(list(batch)))


def test_images_may_come_from_a_generator(clip: Encoder, paths: list[Path]) -> None:
    np.testing.assert_array_equal(clip.encode_images(path for path in paths), clip.encode_images(paths))


def test_a_file_is_rotated_by_its_exif_orientation(clip: Encoder, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate right
    picture(3).save(tmp_path / "turned.png", exif=exif)
    upright = picture(3).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_allclose(
        clip.encode_images(tmp_path / "turned.png"), clip.encode_images(upright), atol=1e-6
    )


def test_an_unreadable_image_is_named(clip: Encoder, paths: list[Path], broken: Path) -> None:
    with pytest.raises(errors.ImageError, match=r"broken\.png"):
        clip.encode_images([*paths, broken])
    with pytest.raises(errors.ImageError, match=r"image 1 \(counted from 0\)"):
        clip.encode_images([paths[0], b"not an image"])
    with pytest.raises(errors.ImageError, match=r"nowhere\.png"):
        clip.encode_images("nowhere.png")


def test_skipping_returns_the_index_of_each_row(clip: Encoder, paths: list[Path], broken: Path) -> None:
    mixed = [paths[0], broken, paths[1], b"", paths[2]]
    features, kept, skipped = clip.encode_images(mixed, batch_size=2, on_error="skip")
    np.testing.assert_allclose(features, clip.encode_images(paths[:3]), atol=1e-6)
    assert kept == [0, 2, 4]
    assert [(one.index, one.name) for one in skipped] == [(1, str(broken)), (3, "image 3")]
    assert "not an image" in str(skipped[0].error)


def test_an_error_of_any_kind_while_reading_an_image_is_that_image_s(
    clip: Encoder, paths: list[Path]
) -> None:
    class Odd(io.BytesIO):
        def seek(self, *arguments: int) -> int:
            raise ZeroDivisionError("no place to go")

    features, kept, skipped = clip.encode_images([paths[0], Odd(), "a\0b.png", paths[1]], on_error="skip")
    np.testing.assert_allclose(features, clip.encode_images(paths[:2]), atol=1e-6)
    assert kept == [0, 3]
    assert "ZeroDivisionError: no place to go" in str(skipped[0].error)
    with pytest.raises(errors.ImageError, match=r"image 1 \(counted from 0\): .*no place to go"):
        clip.encode_images([paths[0], Odd()])


def test_skipping_all_gives_no_rows(clip: Encoder, broken: Path) -> None:
    features, kept, skipped = clip.encode_images([broken, broken], on_error="skip")
    assert features.shape == (0, DIM)
    assert (kept, len(skipped)) == ([], 2)


def test_too_large_an_image_is_refused(tmp_path: Path, paths: list[Path]) -> None:
    model = write_tiny_model(tmp_path / "tiny.safetensors")
    small = oneclip.load(model, device="cpu", max_pixels=100)
    with pytest.raises(errors.ImageTooLargeError):
        small.encode_images(paths)
    with pytest.raises(errors.ImageTooLargeError):
        small.encode_images([paths[0].read_bytes()])


def test_images_are_read_at_most_two_batches_ahead(clip: Encoder, paths: list[Path]) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield paths[taken % 5]

    stream = clip.stream_images(endless(), batch_size=4)
    assert next(stream).kept == [0, 1, 2, 3]
    assert next(stream).kept == [4, 5, 6, 7]
    assert taken <= 16
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("oneclip-read")]


@pytest.mark.parametrize("argument", [{"batch_size": 0}, {"batch_size": 2.5}, {"on_error": "ignore"}])
def test_a_wrong_argument_is_named(clip: Encoder, paths: list[Path], argument: dict[str, object]) -> None:
    with pytest.raises(errors.ConfigError, match=next(iter(argument))):
        clip.encode_images(paths, **argument)


def test_progress_counts_every_item_once(clip: Encoder, paths: list[Path], broken: Path) -> None:
    counts: list[int] = []
    clip.encode_images([*paths, broken], batch_size=4, on_error="skip", progress=counts.append)
    assert counts == [4, 2]
    counts.clear()
    clip.encode_texts(["a", "b", "a", "c"], batch_size=2, progress=counts.append)
    assert sum(counts) == 4


def test_a_bar_goes_to_stderr(clip: Encoder, paths: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    clip.encode_images(paths, progress=True)
    assert capsys.readouterr().out == ""


# --------------------------------------------------------------------------------------------------- texts

TEXTS = ["a dog", "a cat that sits on a mat beside a very large window", "a dog", "", "Ünïcödé 🐈", "tree"]


def text_features_of(clip: Encoder, texts: list[str]) -> np.ndarray:
    with torch.no_grad():
        rows = [clip.model.encode_text(clip.tokenizer(text), normalize=True) for text in texts]
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_texts_keep_their_order(clip: Encoder, batch_size: int) -> None:
    features = clip.encode_texts(TEXTS, batch_size=batch_size)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, text_features_of(clip, TEXTS), atol=1e-6)


def test_texts_are_sorted_in_more_than_one_window(clip: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.text.batching.length_buckets.SORT_WINDOW", 2)
    np.testing.assert_allclose(
        clip.encode_texts(TEXTS, batch_size=1), text_features_of(clip, TEXTS), atol=1e-6
    )


def test_one_text_gives_one_row_and_no_text_gives_none(clip: Encoder) -> None:
    assert clip.encode_texts("a dog").shape == (1, DIM)
    assert clip.encode_texts([]).shape == (0, DIM)


def test_equal_texts_are_computed_once_and_short_ones_cost_less(
    clip: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    encode_text = clip.model.encode_text

    def watched(ids: torch.Tensor, normalize: bool) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return encode_text(ids, normalize)

    monkeypatch.setattr(clip.model, "encode_text", watched)
    clip.encode_texts(["one", "a very long sentence " * 5, "two", "one", "three", "one"], batch_size=3)
    assert shapes == [(3, 3), (1, 22)]


def test_a_text_that_is_too_long_is_an_error_unless_it_may_be_truncated(clip: Encoder) -> None:
    long = "word " * 100
    with pytest.raises(errors.TextTooLongError, match="text 2 "):
        clip.encode_texts(["a", "a", long])
    cut = clip.encode_texts(["a", long], overflow="truncate")
    np.testing.assert_allclose(cut, text_features_of(clip, ["a", long]), atol=1e-6)


@pytest.mark.parametrize("texts", [["a", 3], ["a", None], ["a", ["b"]], ["a", b"b"]])
def test_a_text_that_is_not_a_string_is_named(clip: Encoder, texts: list[object]) -> None:
    with pytest.raises(errors.TextTypeError, match="text 1 is not a string"):
        clip.encode_texts(texts)


# ----------------------------------------------------------------------------------------------------- towers


def test_each_tower_alone_gives_the_features_of_the_model(clip: Encoder) -> None:
    pixels = torch.stack([clip.preprocess(picture(i)) for i in range(2)])
    ids = clip.tokenizer(TEXTS)
    with torch.no_grad():
        assert torch.allclose(clip.encode_pixels(pixels), clip.model.encode_image(pixels), atol=1e-6)
        assert torch.allclose(clip.encode_tokens(ids), clip.model.encode_text(ids), atol=1e-5)
    assert torch.equal(clip.encode_tokens(ids.int()), clip.encode_tokens(ids))
    assert clip.encode_pixels(pixels[:0]).shape == (0, DIM)
    assert clip.encode_tokens(ids[:0]).shape == (0, DIM)


def test_features_may_enter_a_computation_with_gradient(clip: Encoder) -> None:
    probe = torch.nn.Linear(DIM, 2)
    probe(clip.encode_pixels(torch.zeros(1, 3, PIXELS, PIXELS))).sum().backward()
    assert probe.weight.grad is not None


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(3, PIXELS, PIXELS),
        torch.zeros(1, 3, PIXELS, PIXELS + 1),
        torch.zeros(1, 1, PIXELS, PIXELS),
        torch.zeros(1, 3, PIXELS, PIXELS, dtype=torch.uint8),
    ],
)
def test_pixels_of_another_shape_or_kind_are_refused(clip: Encoder, pixels: torch.Tensor) -> None:
    with pytest.raises(errors.ShapeError, match=rf"\(B, 3, {PIXELS}, {PIXELS}\)"):
        clip.encode_pixels(pixels)


def test_a_tensor_is_not_an_image(clip: Encoder) -> None:
    with pytest.raises(errors.ShapeError, match="encode_pixels"):
        clip.encode_images(torch.zeros(1, 3, PIXELS, PIXELS))


@pytest.mark.parametrize(
    "ids", [torch.ones(3, dtype=torch.long), torch.ones(1, 78, dtype=torch.long), torch.ones(1, 3)]
)
def test_ids_of_another_shape_or_kind_are_refused(clip: Encoder, ids: torch.Tensor) -> None:
    with pytest.raises(errors.ShapeError, match="from 1 to 77"):
        clip.encode_tokens(ids)


@pytest.mark.parametrize("wrong", [-1, 49408])
def test_ids_outside_the_vocabulary_are_refused(clip: Encoder, wrong: int) -> None:
    with pytest.raises(errors.TokenRangeError, match=f"{wrong} is outside"):
        clip.encode_tokens(torch.tensor([[49406, wrong, 49407]]))


# ---------------------------------------------------------------------------------------------------- together


def test_classify_ranks_labels_by_softmax_of_similarity(clip: Encoder, paths: list[Path]) -> None:
    labels = ["a cat", "a dog", "a tree"]
    ranking = clip.classify(paths[0], labels)
    logits = (
        clip.model.logit_scale.exp().item()
        * text_features_of(clip, labels)
        @ features_of(clip, [picture(0)]).T
    )
    expected = dict(zip(labels, torch.from_numpy(logits[:, 0]).softmax(0).tolist(), strict=True))
    assert dict(ranking) == pytest.approx(expected, abs=1e-5)
    assert [p for _, p in ranking] == sorted((p for _, p in ranking), reverse=True)
    assert sum(p for _, p in ranking) == pytest.approx(1, abs=1e-6)


def test_classify_of_several_images_gives_a_ranking_for_each(clip: Encoder, paths: list[Path]) -> None:
    rankings = clip.classify(paths[:2], ["a cat", "a dog"])
    for path, ranking in zip(paths[:2], rankings, strict=True):
        assert dict(ranking) == pytest.approx(dict(clip.classify(path, ["a cat", "a dog"])), abs=1e-5)
    assert clip.classify([], ["a cat", "a dog"]) == []


def test_top_shortens_a_ranking(clip: Encoder, paths: list[Path]) -> None:
    labels = ["a", "b", "c"]
    assert clip.classify(paths[0], labels, top=2) == clip.classify(paths[0], labels)[:2]
    assert len(clip.classify(paths[0], labels, top=9)) == 3
    with pytest.raises(errors.ConfigError, match="top"):
        clip.classify(paths[0], labels, top=0)


def test_a_template_is_filled_in_and_the_ranking_has_the_labels(clip: Encoder, paths: list[Path]) -> None:
    framed = clip.classify(paths[0], ["cat", "dog"], template="a {} with {braces}")
    bare = clip.classify(paths[0], ["a cat with {braces}", "a dog with {braces}"])
    assert [p for _, p in framed] == [p for _, p in bare]
    assert {label for label, _ in framed} == {"cat", "dog"}


@pytest.mark.parametrize(
    ("labels", "template", "message"),
    [
        (["a cat", "a cat"], None, "'a cat' is given twice"),
        (["a cat", "A  Cat"], None, "are the same to this model"),
        (["a cat", " "], None, "label 2 is empty"),
        ([], None, "no label"),
        (["a cat", 3], None, "label 2 is int, expected a string"),
        (["a cat", "a dog"], "a photo", "no {} where the label goes"),
        (["a cat", "dog " * 100], None, "tokens"),
    ],
)
def test_wrong_labels_are_refused(
    clip: Encoder, paths: list[Path], labels: list[str], template: str | None, message: str
) -> None:
    with pytest.raises(errors.TextError, match=message):
        clip.classify(paths[0], labels, template=template)


def test_a_model_with_a_bias_scores_each_label_on_its_own(tmp_path: Path, paths: list[Path]) -> None:
    model = write_tiny_model(tmp_path / "tiny.safetensors", init_logit_scale=math.log(10), init_logit_bias=-2)
    clip = oneclip.load(model, device="cpu")
    similarity = float(clip.encode_images(paths[0])[0] @ clip.encode_texts("a cat")[0])
    expected = torch.tensor(clip.model.logit_scale.exp().item() * similarity - 2).sigmoid().item()
    assert clip.classify(paths[0], ["a cat"]) == [("a cat", pytest.approx(expected, abs=1e-4))]
    alone = dict(clip.classify(paths[0], ["a cat"]))["a cat"]
    assert dict(clip.classify(paths[0], ["a cat", "a dog"]))["a cat"] == pytest.approx(alone, abs=1e-6)


# ----------------------------------------------------------------------------------------------------- loading


def test_an_encoder_has_the_facts_of_its_model(clip: Encoder) -> None:
    assert (clip.embed_dim, clip.image_size, clip.precision) == (DIM, (PIXELS, PIXELS), "fp32")
    assert clip.device == torch.device("cpu")
    assert clip.name.endswith("tiny.safetensors")
    assert repr(clip).startswith("<Encoder ")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_close_and_comes_out_as_float32(
    tmp_path: Path, paths: list[Path], clip: Encoder, precision: str
) -> None:
    low = oneclip.load(write_tiny_model(tmp_path / "tiny.safetensors"), device="cpu", precision=precision)
    assert low.precision == precision
    features = low.encode_images(paths)
    assert features.dtype == np.float32
    assert (features * clip.encode_images(paths)).sum(axis=1).min() > 0.99
    assert (low.encode_texts(TEXTS) * clip.encode_texts(TEXTS)).sum(axis=1).min() > 0.99


def test_damaged_weights_are_refused(tmp_path: Path, paths: list[Path]) -> None:
    clip = oneclip.load(write_tiny_model(tmp_path / "tiny.safetensors"), device="cpu")
    with torch.no_grad():
        clip.model.visual.proj.fill_(float("nan"))
    with pytest.raises(errors.CheckpointError, match="not finite"):
        clip.encode_images(paths)


def test_a_mistyped_model_gets_a_suggestion() -> None:
    with pytest.raises(errors.UnknownModelError, match="did you mean ViT-B"):
        oneclip.load("ViT-B/23")


@pytest.mark.parametrize(
    ("device", "message"),
    [("banana", "unknown device 'banana'"), ("cuda:99", "no device 'cuda:99' on this machine")],
)
def test_a_device_that_cannot_be_used_is_named(tmp_path: Path, device: str, message: str) -> None:
    with pytest.raises(errors.ConfigError, match=f"{message}; available: cpu"):
        oneclip.load(write_tiny_model(tmp_path / "tiny.safetensors"), device=device)


def test_importing_the_package_loads_no_torch() -> None:
    code = """
import sys, oneclip
oneclip.errors.OneCLIPError, dir(oneclip), oneclip.list_models(), oneclip.zoo.families(), oneclip.config.RunCfg
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_folder_is_available_after_one_import() -> None:
    code = """
import oneclip
oneclip.zoo.resolve, oneclip.evaluate.Retrieval, oneclip.image.open_image, oneclip.train.Trainer
oneclip.checkpoint.readers.read, oneclip.text.get_tokenizer, oneclip.model.CLIP, oneclip.losses.ClipLoss
oneclip.hub.download, oneclip.config.ModelCfg, oneclip.engine.accelerate, oneclip.embed, oneclip.encoder.load
"""
    done = programs.run(["-c", code])
    assert done.returncode == 0, done.stderr


def test_the_package_exports_these_names() -> None:
    names = ["Encoder", "Index", "LinearProbe", "__version__", "accelerate", "errors", "list_models", "load"]
    assert sorted(oneclip.__all__) == names
    assert {"zoo", "evaluate", "image", "search", "train", "checkpoint"} <= set(dir(oneclip))
    assert set(oneclip.__all__) <= set(dir(oneclip))
    assert oneclip.Encoder is Encoder
    with pytest.raises(AttributeError, match="nothing_such"):
        oneclip.nothing_such  # noqa: B018


def test_normalized_features_are_the_embeddings(clip: Encoder) -> None:
    by_hand = F.normalize(clip.encode_tokens(clip.tokenizer(["a dog"])), dim=-1).numpy()
    np.testing.assert_allclose(clip.encode_texts("a dog"), by_hand, atol=1e-6)


def test_a_16_bit_image_is_the_same_from_a_path_and_from_pillow(clip: Encoder, tmp_path: Path) -> None:
    gradient = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(gradient).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as opened:
        features = clip.encode_images([tmp_path / "deep.png", opened])
    np.testing.assert_array_equal(features[0], features[1])
