"""Adapters inside the published sentence-transformers and MTEB, run once in a process of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import adapters_run
import install
import pytest
import torch
from torch import Tensor

import oneclip
from oneclip.adapters import SentenceEncoder
from tests import programs

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the packages, and return the folder of what they found."""
    if not install.installed(install.ADAPTED):
        pytest.skip("the published packages are not here: python tests/parity/install.py")
    folder = tmp_path_factory.mktemp("adapters")
    path = os.pathsep.join([str(install.ADAPTED), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = programs.run([HERE / "adapters_run.py", folder], environment, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.fixture(scope="module")
def model(folder: Path) -> oneclip.Encoder:
    return oneclip.load(folder / "model")


KEYS = ("texts", "unit texts", "prompted", "images", "path", "cut", "similarity", "pairwise")


@pytest.mark.parametrize("key", KEYS)
def test_module_equals_the_clip_of_sentence_transformers(found: dict[str, Any], key: str) -> None:
    theirs, ours = found["sentences"]["theirs"][key], found["sentences"]["ours"][key]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", ["dimension", "length"])
def test_module_reports_what_the_clip_of_sentence_transformers_does(found: dict[str, Any], key: str) -> None:
    assert found["sentences"]["ours"][key] == found["sentences"]["theirs"][key]


def test_sentence_encoder_equals_the_clip_of_sentence_transformers(
    folder: Path, found: dict[str, Any], model: oneclip.Encoder
) -> None:
    ours, theirs = SentenceEncoder(model), found["sentences"]["theirs"]
    images, texts = adapters_run.images(), adapters_run.TEXTS
    both: dict[str, Tensor] = {
        "texts": ours.encode(texts, convert_to_tensor=True),
        "unit texts": ours.encode(texts, convert_to_tensor=True, normalize_embeddings=True),
        "prompted": ours.encode(texts[:2], convert_to_tensor=True, prompt="query: "),
        "images": ours.encode(images, convert_to_tensor=True),
        "path": ours.encode(str(folder / "image.png"), convert_to_tensor=True),
        "cut": ours.encode(texts[:2], convert_to_tensor=True, truncate_dim=5),
        "similarity": ours.similarity(ours.encode(images), ours.encode(texts)),
        "pairwise": ours.similarity_pairwise(ours.encode(images), ours.encode(texts)),
    }
    torch.testing.assert_close(both, {key: theirs[key] for key in KEYS}, rtol=1e-4, atol=1e-5)


def test_saved_module_is_loaded_by_sentence_transformers(found: dict[str, Any]) -> None:
    assert torch.equal(found["sentences"]["saved"], found["sentences"]["ours"]["texts"])


def test_loss_of_sentence_transformers_trains_both_towers(found: dict[str, Any]) -> None:
    trained = {name for name, is_trained in found["sentences"]["trained"].items() if is_trained}
    assert {"0.model.visual.proj", "0.model.token_embedding.weight"} <= trained


def test_mteb_accepts_the_encoder(found: dict[str, Any]) -> None:
    assert found["mteb"]["is encoder"]


def test_mteb_writes_the_name_beside_results_and_which_weights(
    found: dict[str, Any], model: oneclip.Encoder
) -> None:
    from oneclip.embed.rows import EmbeddingMetadata

    revision = EmbeddingMetadata.for_encoder(model, "exact").identity
    assert found["mteb"]["meta"] == ["us/tiny", revision, 16, 77]


def test_mteb_scores_zero_shot_classification(found: dict[str, Any], model: oneclip.Encoder) -> None:
    cosines = model.similarity(adapters_run.squares(), adapters_run.LABELS)
    hits = cosines.argmax(axis=1) == [i % 3 for i in range(adapters_run.NUMBER)]
    assert found["mteb"]["scores"]["Squares"]["accuracy"] == pytest.approx(hits.mean())


@pytest.mark.parametrize("at", [1, 3, 5])
def test_mteb_scores_retrieval_of_images_by_words(
    found: dict[str, Any], model: oneclip.Encoder, at: int
) -> None:
    cosines = torch.tensor(model.similarity(adapters_run.squares(), adapters_run.captions()).T)
    assert found["mteb"]["scores"]["ByWords"][f"recall_at_{at}"] == pytest.approx(
        recall(cosines, at), abs=1e-5
    )


@pytest.mark.parametrize("at", [1, 3, 5])
def test_mteb_adds_the_features_of_an_image_and_its_text(
    found: dict[str, Any], model: oneclip.Encoder, at: int
) -> None:
    sentences, squares = SentenceEncoder(model), adapters_run.squares()
    queries = sentences.encode(squares[::-1]) + sentences.encode(adapters_run.captions())
    cosines = sentences.similarity(queries, sentences.encode(squares))
    assert found["mteb"]["scores"]["ByBoth"][f"recall_at_{at}"] == pytest.approx(
        recall(cosines, at), abs=1e-5
    )


def recall(cosines: Tensor, at: int) -> float:
    """Return the share of queries whose document, in the same place, is among the best `at`."""
    rows = torch.arange(len(cosines))
    return float((cosines.topk(at).indices == rows[:, None]).any(dim=1).float().mean())
