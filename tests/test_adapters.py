"""Adapters to the interfaces of sentence-transformers and MTEB, without these packages.

`tests/parity/test_parity_adapters.py` runs them inside the packages.
"""

from __future__ import annotations

import base64
import io
import pickle
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DIM, picture, write_tiny_model

import oneclip
from oneclip.adapters import MTEBEncoder, SentenceEncoder, SentenceModule
from oneclip.adapters.features import split_inputs
from oneclip.errors import ConfigError, ImageError, TextTypeError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> oneclip.Encoder:
    return oneclip.load(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def sentences(model: oneclip.Encoder) -> SentenceEncoder:
    return SentenceEncoder(model)


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "a cat.png"
    picture(5).save(path)
    return path


def close(one: Any, other: Any) -> None:
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-4, atol=1e-5)


def test_normalized_embeddings_are_those_of_the_encoder(
    sentences: SentenceEncoder, model: oneclip.Encoder
) -> None:
    images, texts = [picture(i) for i in range(3)], ["a cat", "a dog"]
    close(sentences.encode(images, normalize_embeddings=True), model.encode_images(images))
    close(sentences.encode(texts, normalize_embeddings=True), model.encode_texts(texts))


def test_images_and_texts_of_one_list_keep_their_order(sentences: SentenceEncoder) -> None:
    mixed = sentences.encode(["a cat", picture(1), "a dog", picture(2)])
    close(mixed[::2], sentences.encode(["a cat", "a dog"]))
    close(mixed[1::2], sentences.encode([picture(1), picture(2)]))


def test_small_batches_give_the_same_embeddings(sentences: SentenceEncoder) -> None:
    inputs = ["a cat", picture(1), "a dog", picture(2), "a cat on a mat", picture(3)]
    close(sentences.encode(inputs, batch_size=1), sentences.encode(inputs))


def test_path_is_an_image_and_a_missing_path_is_a_text(sentences: SentenceEncoder, png: Path) -> None:
    found = sentences.encode([str(png), png, picture(5), {"image": str(png)}])
    close(found, [found[2]] * 4)
    split = split_inputs(["no such file.png", str(png), {"text": str(png)}])
    assert (split.text_rows, split.image_rows) == ([0, 2], [1])


def test_data_uri_is_an_image(sentences: SentenceEncoder) -> None:
    file = io.BytesIO()
    picture(5).save(file, "png")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    close(sentences.encode(uri), sentences.encode(picture(5)))


def test_address_of_an_image_is_fetched(sentences: SentenceEncoder, png: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=png.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            found = sentences.encode(f"http://127.0.0.1:{server.server_port}/a%20cat.png?size=3")
        finally:
            server.shutdown()
    close(found, sentences.encode(picture(5)))


def test_one_input_gives_one_row(sentences: SentenceEncoder) -> None:
    for one in ("a cat", picture(0), {"text": "a cat"}, np.zeros((8, 8, 3), np.uint8)):
        assert sentences.encode(one).shape == (DIM,)


def test_nothing_gives_no_rows(sentences: SentenceEncoder) -> None:
    assert sentences.encode([]).shape == (0, DIM)


def test_type_of_the_result_is_the_requested_one(sentences: SentenceEncoder) -> None:
    assert isinstance(sentences.encode(["a"]), np.ndarray)
    assert isinstance(sentences.encode(["a"], convert_to_tensor=True), torch.Tensor)
    assert isinstance(sentences.encode(["a"], convert_to_numpy=False), list)


def test_older_names_are_accepted(sentences: SentenceEncoder) -> None:
    close(sentences.encode(sentences=["a cat"]), sentences.encode(["a cat"]))
    assert sentences.get_sentence_embedding_dimension() == DIM


def test_prompts_stand_before_texts_only(model: oneclip.Encoder) -> None:
    prompted = SentenceEncoder(model, prompts={"query": "find: "})
    close(prompted.encode_query(["a cat", picture(0)]), prompted.encode(["find: a cat", picture(0)]))
    close(prompted.encode_document(["a cat"]), prompted.encode(["a cat"]))


def test_unknown_prompt_is_refused(sentences: SentenceEncoder) -> None:
    with pytest.raises(ConfigError, match="'query' is not the name of a prompt"):
        sentences.encode("a cat", prompt_name="query")


@pytest.mark.parametrize("option", [{"precision": "int8"}, {"output_value": "token_embeddings"}])
def test_outputs_of_other_models_are_refused(sentences: SentenceEncoder, option: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="the only one here"):
        sentences.encode("a cat", **option)  # type: ignore[arg-type]


def test_input_of_another_type_is_named(sentences: SentenceEncoder) -> None:
    with pytest.raises(TextTypeError, match=r"input 1 .* is int"):
        sentences.encode(["a cat", 3])


@pytest.mark.parametrize("image", ["data:image/png;base64,???", {"image": b"no image"}])
def test_damaged_image_is_an_error(sentences: SentenceEncoder, image: object) -> None:
    with pytest.raises(ImageError):
        sentences.encode([image])


def test_similarity_takes_one_embedding_and_lists_of_tensors(sentences: SentenceEncoder) -> None:
    rows = sentences.encode(["a", "b", "c"], convert_to_numpy=False)
    close(sentences.similarity(rows[0], rows), sentences.similarity(torch.stack(rows), rows)[:1])


def test_module_puts_rows_of_both_kinds_in_order(model: oneclip.Encoder) -> None:
    module, inputs = SentenceModule(model), ["a cat", picture(1), "a dog", picture(2), picture(3)]
    with torch.no_grad():
        found = module(module.preprocess(inputs))["sentence_embedding"]
    close(found, SentenceEncoder(model).encode(inputs))


def test_module_with_gradients_computes_the_same(model: oneclip.Encoder) -> None:
    module = SentenceModule(model)
    features = module.preprocess(["a cat", picture(1)])
    found = module(features)["sentence_embedding"]
    assert found.requires_grad
    with torch.no_grad():
        close(found.detach(), module(features)["sentence_embedding"])


def test_module_can_be_pickled_for_other_processes(model: oneclip.Encoder) -> None:
    module = pickle.loads(pickle.dumps(SentenceModule(model)))
    assert module.model is module.encoder.model


def test_conversion_of_the_module_reaches_the_encoder(tmp_path: Path) -> None:
    module = SentenceModule(write_tiny_model(tmp_path / "tiny.safetensors")).bfloat16()
    assert module.encoder.precision == "bf16"


def batches(**columns: list[Any]) -> list[dict[str, list[Any]]]:
    """Split columns into batches of two, as MTEB's loaders do."""
    return [{name: rows[i : i + 2] for name, rows in columns.items()} for i in range(0, 3, 2)]


def test_mteb_encoder_reads_all_batches(model: oneclip.Encoder, sentences: SentenceEncoder) -> None:
    encoder, images, texts = MTEBEncoder(model), [picture(i) for i in range(3)], ["a", "b", "c"]
    close(encoder.encode(batches(image=images)), sentences.encode(images))
    close(encoder.encode(batches(text=texts)), sentences.encode(texts))
    both = sentences.encode(images) + sentences.encode(texts)
    close(encoder.encode(batches(text=texts, image=images)), both)


def test_mteb_encoder_refuses_other_modalities(model: oneclip.Encoder) -> None:
    with pytest.raises(ConfigError, match="the inputs of this task are audio; expected text or image"):
        MTEBEncoder(model).encode([{"audio": [b"", b""]}])


def test_import_of_the_adapters_imports_no_package_that_they_adapt_to() -> None:
    assert not {"mteb", "sentence_transformers"} & sys.modules.keys()
