"""`oneclip pull`: it downloads everything that loading needs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import ANY

import hub_models
import numpy as np
import pytest
from commandline import Run
from hub_server import Fault, Hub, environment, in_this_process, running, sha256

import oneclip
import open_clip
from tests import programs

SIGLIP, CLIP, TRANSFORMERS = "hf-hub:own/siglip", "hf-hub:own/clip", "hf-hub:own/transformers"
CAPTIONS = ["a photo of a cat", "the sun"]
WEIGHTS = "open_clip_model.safetensors"


def publish(server: Hub) -> None:
    server.publish("own/clip", hub_models.clip())
    server.publish("own/siglip", hub_models.siglip())
    server.publish(hub_models.WORDS_REPO, hub_models.words())
    server.publish("own/transformers", hub_models.in_shards(hub_models.transformers_clip()))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with in_this_process(monkeypatch, tmp_path) as hub:
        publish(hub)
        yield hub


def test_pulled_models_load_without_a_request(server: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run("pull", CLIP, SIGLIP, TRANSFORMERS, "--json")
    assert (code, err) == (0, "")
    pulled = {each["name"]: each for each in json.loads(out)["models"]}
    assert pulled[SIGLIP]["tokenizer"] == hub_models.WORDS_REPO
    assert pulled[SIGLIP]["bytes"] == sum(
        map(len, [hub_models.siglip()[WEIGHTS], *hub_models.words().values()])
    )
    assert Path(pulled[TRANSFORMERS]["path"]).name == "model.safetensors.index.json"
    server.requests.clear()
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    for name in pulled:
        assert oneclip.load(name, device="cpu").encode_texts(CAPTIONS).shape[0] == 2
    assert server.requests == []


def test_cached_files_are_not_downloaded_again(server: Hub, run: Run) -> None:
    assert run("pull", SIGLIP).code == 0
    assert run("pull", SIGLIP).code == 0
    assert len(server.downloads(WEIGHTS)) == 1
    assert len(server.downloads("tokenizer.json")) == 1


def test_a_failed_model_is_named_and_the_others_are_pulled(server: Hub, run: Run) -> None:
    code, out, err = run("pull", CLIP, "hf-hub:own/clap", "ViT-B-23", SIGLIP, "--json")
    assert code == 1
    found = json.loads(out)
    assert [each["name"] for each in found["models"]] == [CLIP, SIGLIP]
    assert [each["name"] for each in found["failed"]] == ["hf-hub:own/clap", "ViT-B-23"]
    assert "does not exist or is private" in found["failed"][0]["reason"]
    assert "did you mean ViT-B-32" in err
    assert err.splitlines()[-1] == "2 of 4 models failed: hf-hub:own/clap, ViT-B-23"


def test_a_folder_loads_by_its_path_without_a_network(
    server: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = oneclip.load(SIGLIP, device="cpu").encode_texts(CAPTIONS)
    code, out, err = run("pull", SIGLIP, "--out", tmp_path / "made", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["models"][0]["path"] == str(tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    server.requests.clear()
    found = oneclip.load(tmp_path / "elsewhere", device="cpu")
    np.testing.assert_array_equal(found.encode_texts(CAPTIONS), expected)
    assert found.preprocess.cfg.resize_mode == "squash"
    assert server.requests == []


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Function that removes the network and the hub's cache."""

    def leave() -> None:
        monkeypatch.setenv("ONECLIP_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))

    return leave


def test_a_folder_has_the_configuration_of_a_text_tower_that_no_table_has(
    server: Hub, run: Run, tmp_path: Path, nowhere: Callable[[], None]
) -> None:
    server.publish(hub_models.BERT_REPO, hub_models.bert())
    server.publish("own/with-bert", hub_models.with_bert())
    expected = oneclip.load("hf-hub:own/with-bert", device="cpu").encode_texts(CAPTIONS)
    assert run("pull", "hf-hub:own/with-bert", "--out", tmp_path / "made") == (0, ANY, "")
    nowhere()
    (tmp_path / "made").rename(tmp_path / "moved")
    again = run("convert", tmp_path / "moved", tmp_path / "again", "--to", "open_clip", "--json")
    assert again.code == 0, again.err
    shutil.rmtree(tmp_path / "moved")
    found = oneclip.load(tmp_path / "again", device="cpu").encode_texts(CAPTIONS)
    np.testing.assert_array_equal(found, expected)
    config = json.loads((tmp_path / "again" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["hf_model_name"] == hub_models.BERT_REPO
    model = open_clip.create_model(f"local-dir:{tmp_path / 'again'}")
    assert model.vocab_size == len(hub_models.WORDS)


def test_a_quantized_model_stays_quantized_in_a_folder(pocket: Path, run: Run, tmp_path: Path) -> None:
    assert run("pull", "pocket", "--out", tmp_path / "made") == (0, ANY, "")
    assert (tmp_path / "made" / WEIGHTS).stat().st_size < pocket.stat().st_size + 4096  # of metadata
    found, expected = (
        oneclip.load(name, device="cpu").encode_texts(CAPTIONS) for name in (tmp_path / "made", "pocket")
    )
    np.testing.assert_array_equal(found, expected)


def test_a_folder_is_replaced_only_on_request(server: Hub, run: Run, tmp_path: Path) -> None:
    assert run("pull", CLIP, "--out", tmp_path / "made").code == 0
    assert "only with --force" in run("pull", SIGLIP, "--out", tmp_path / "made").err
    assert oneclip.load(tmp_path / "made", device="cpu").embed_dim == 16
    assert run("pull", CLIP, "--out", tmp_path / "made", "--force").code == 0


def test_a_folder_of_several_models_is_a_usage_error(server: Hub, run: Run, tmp_path: Path) -> None:
    code, _, err = run("pull", CLIP, SIGLIP, "--out", tmp_path / "made")
    assert code == 2
    assert "--out writes one model" in err
    assert server.requests == []


def test_a_damaged_download_is_an_error(server: Hub, run: Run) -> None:
    server.faults = [Fault(sha256(hub_models.clip()[WEIGHTS]), corrupt=True)]
    code, _, err = run("pull", CLIP)
    assert code == 1
    assert "was deleted" in err
    assert run("pull", CLIP).code == 0


def test_pocket_is_always_here(pocket: Path, run: Run) -> None:
    code, out, _ = run("pull", "pocket")
    assert code == 0
    assert str(pocket) in out


def test_after_ctrl_c_the_same_command_resumes(tmp_path: Path) -> None:
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "SYSTEMROOT")}
    command = ["-m", "oneclip", "pull", CLIP, SIGLIP]
    weights = sha256(hub_models.siglip()[WEIGHTS])
    with running() as server:
        publish(server)
        server.faults = [Fault(weights, wait=30.0)]
        settings = kept | environment(server, str(tmp_path))
        first, errors = programs.begin(command, settings, stream=2)
        deadline = time.monotonic() + 60
        while not any(weights in request.path for request in server.requests):
            assert first.exitcode is None, errors.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGINT)
        with errors:
            err = errors.read()
        first.join()
        assert first.exitcode == 130, err
        assert "interrupted" in err
        server.requests.clear()
        again = programs.run(command, settings)
        assert again.returncode == 0, again.stderr
        assert [request.path for request in server.downloads(WEIGHTS)] == [f"/blobs/{weights}"]
