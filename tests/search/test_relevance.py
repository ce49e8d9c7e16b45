"""Relevance: normalizers and probabilities by arithmetic, its file, and what it keeps of pocket's drawings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import oneclip
from oneclip.errors import DataError
from oneclip.evaluate import load_pocket_heldout
from oneclip.search import relevance
from oneclip.search.relevance import RelevanceModel, combine, generic_texts

DIM = 8


def unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclass
class FakeEncoder:
    logit_scale: float = 30.0
    logit_bias: float | None = None
    asked: list[str] = field(default_factory=list)

    def encode_texts(self, texts: Sequence[str], /) -> np.ndarray:
        self.asked += texts
        return unit(len(texts), 1)


@pytest.fixture
def model() -> RelevanceModel:
    return RelevanceModel.from_encoder(FakeEncoder())


@pytest.fixture
def sigmoid_model() -> RelevanceModel:
    return RelevanceModel.from_encoder(FakeEncoder(logit_scale=10.0, logit_bias=-2.0))


def test_the_generic_texts_are_about_200_different_ones() -> None:
    texts = generic_texts()
    assert len(set(texts)) == len(texts)
    assert 150 <= len(texts) <= 250
    assert all(text == text.strip() and text for text in texts)


def test_the_probability_is_the_softmax_over_the_text_and_the_generic_texts(model: RelevanceModel) -> None:
    images, text = unit(50, 2), unit(1, 3)
    logits = 30.0 * images.astype(float) @ np.concatenate([text, model.texts]).astype(float).T
    exponentials = np.exp(logits)
    expected = exponentials[:, 0] / exponentials.sum(axis=1)
    found = model.probability((images @ text.T)[:, 0], model.log_normalizers(images))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_normalizers_do_not_depend_on_the_blocks(
    model: RelevanceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = unit(50, 2)
    whole = model.log_normalizers(images)
    monkeypatch.setattr(relevance, "ROWS_PER_BLOCK", 7)
    np.testing.assert_allclose(model.log_normalizers(images), whole, rtol=1e-6)


def test_no_images_have_no_normalizers(model: RelevanceModel) -> None:
    assert model.log_normalizers(np.empty((0, DIM), np.float32)).shape == (0,)


def test_half_of_the_difference_from_the_mean_normalizer_is_used(model: RelevanceModel) -> None:
    cosines, own = np.array([0.5, 0.5], np.float32), np.array([10.0, 16.0], np.float32)
    # 30 * 0.5 = 15, and the normalizers (10 + 13) / 2 and (16 + 13) / 2
    expected = 1 / (1 + np.exp(-np.array([15 - 11.5, 15 - 14.5])))
    np.testing.assert_allclose(model.probability(cosines, own, 13.0), expected, rtol=1e-5)


def test_a_sigmoid_model_uses_its_bias_and_encodes_no_text(sigmoid_model: RelevanceModel) -> None:
    encoder = FakeEncoder(logit_bias=-2.0)
    RelevanceModel.from_encoder(encoder)
    assert encoder.asked == []
    normalizers = sigmoid_model.log_normalizers(unit(2, 2))
    assert normalizers.tolist() == [0.0, 0.0]
    found = sigmoid_model.probability(np.array([0.2, 0.5], np.float32), normalizers, 1.0)
    np.testing.assert_allclose(found, [0.5, 1 / (1 + np.exp(-3))], rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_extreme_logits_give_0_and_1_without_a_warning(model: RelevanceModel) -> None:
    found = model.probability(np.array([-1, 1], np.float32), np.array([1e4, -1e4], np.float32))
    assert found.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("kind", ["model", "sigmoid_model"])
def test_a_saved_model_is_the_same_when_loaded(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(kind)
    model.save(tmp_path / "relevance.npz")
    loaded = RelevanceModel.load(tmp_path / "relevance.npz")
    assert (loaded.scale, loaded.bias, loaded.digest) == (model.scale, model.bias, model.digest)
    np.testing.assert_array_equal(loaded.texts, model.texts)


def test_a_changed_list_is_noticed_and_the_stored_texts_stay_in_use(
    model: RelevanceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save(tmp_path / "relevance.npz")
    assert model.has_current_texts
    monkeypatch.setattr(relevance, "generic_texts", lambda: ("a house", "a tree"))
    loaded = RelevanceModel.load(tmp_path / "relevance.npz")
    assert not loaded.has_current_texts
    assert len(loaded.texts) == len(generic_texts())


def test_a_sigmoid_model_does_not_depend_on_the_list(
    sigmoid_model: RelevanceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relevance, "generic_texts", lambda: ("a house", "a tree"))
    assert sigmoid_model.has_current_texts


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text", "other arrays", "objects"])
def test_an_unreadable_file_is_named_with_the_way_out(
    damage: str, model: RelevanceModel, tmp_path: Path
) -> None:
    path = tmp_path / "relevance.npz"
    model.save(path)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other arrays":
        np.savez(path, vectors=np.zeros(3))
    elif damage == "objects":
        np.savez(path, version=np.array([{}], object), scale=1)
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"no archive"}[damage])
    with pytest.raises(DataError, match=r"relevance\.npz cannot be read .*--rebuild"):
        RelevanceModel.load(path)


def test_a_newer_version_is_refused(
    model: RelevanceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(relevance, "VERSION", 2)
        model.save(tmp_path / "relevance.npz")
    with pytest.raises(DataError, match=r"version 2.*up to 1; install a newer oneclip"):
        RelevanceModel.load(tmp_path / "relevance.npz")


def test_an_image_is_as_relevant_as_its_least_certain_part() -> None:
    wanted = np.array([[0.9, 0.8], [0.7, 0.95]], np.float32)
    unwanted = np.array([[0.5, 0.1]], np.float32)
    np.testing.assert_allclose(combine(wanted), [0.7, 0.8])
    np.testing.assert_allclose(combine(wanted, unwanted), [0.5, 0.8])


def test_a_relevance_of_one_half_keeps_most_right_drawings_and_few_others() -> None:
    clip = oneclip.load("pocket", device="cpu")
    twemoji = load_pocket_heldout().tasks[0]
    images, texts = clip.encode_images(twemoji.images[:100]), clip.encode_texts(twemoji.texts[:100])
    model = RelevanceModel.from_encoder(clip)
    normalizers = model.log_normalizers(images)
    kept = np.stack(
        [model.probability(images @ text, normalizers, float(normalizers.mean())) >= 0.5 for text in texts]
    )
    right = np.eye(len(images), dtype=bool)
    assert kept[right].mean() > 0.6  # 0.74 of all 200
    assert kept[~right].mean() < 0.01  # 0.0016
