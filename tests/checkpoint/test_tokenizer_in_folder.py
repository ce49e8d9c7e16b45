"""Tokenizer of a model in the format of transformers: its vocabulary shows whether it is CLIP's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import Hub, in_this_process
from tokenizers import Tokenizer, models, pre_tokenizers

from oneclip import checkpoint
from oneclip.checkpoint.convert import FOLDER_CONFIG, ConvertibleModel, convert
from oneclip.checkpoint.formats import TransformersCLIP
from oneclip.checkpoint.formats.base import NativeCheckpoint
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.model import build_model
from oneclip.text import CLIPTokenizer, HFTokenizer
from oneclip.text.factory import TOKENIZER_IN_MODEL_FOLDER

VISION = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32)
CFG = ModelCfg(16, VISION, CLIPTextCfg(width=16, heads=2, layers=1), quick_gelu=True)
TEXT = "w7 w3 w9"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with CLIP's vocabulary size, and CLIP's tokenizer next to it."""
    folder = tmp_path_factory.mktemp("model") / "clip"
    convert(
        ConvertibleModel(build_model(CFG).state_dict(), CFG, PreprocessCfg(size=32)), folder, "transformers"
    )
    return folder


def with_files(source: Path, folder: Path, keep: Callable[[str], bool]) -> Path:
    folder.mkdir()
    for path in source.iterdir():
        if keep(path.name):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def other(written: Path, tmp_path: Path) -> Path:
    """The same model with another tokenizer of the same size next to it: one that splits at spaces."""
    folder = with_files(
        written, tmp_path / "other", lambda name: "vocab" not in name and "merges" not in name
    )
    ids = {f"w{i}": i for i in range(49_406)} | {"<|startoftext|>": 49_406, "<|endoftext|>": 49_407}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    config = special | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with in_this_process(monkeypatch, tmp_path / "hub") as hub:
        yield hub


def test_another_vocabulary_of_the_same_size_is_used(other: Path, server: Hub) -> None:
    server.publish("own/clip", {path.name: path.read_bytes() for path in other.iterdir()})
    for name in (str(other), str(other / "model.safetensors"), "hf-hub:own/clip"):
        loaded = checkpoint.load(name, device="cpu")
        assert loaded.cfg.text_cfg.hf_tokenizer_name == TOKENIZER_IN_MODEL_FOLDER
        assert loaded.tokenizer().encode(TEXT) == [7, 3, 9]


@pytest.mark.parametrize("files", ["all", "tokenizer.json", "vocab.json", "none"])
def test_clips_vocabulary_is_used_with_clips_tokenizer(written: Path, tmp_path: Path, files: str) -> None:
    """CLIP's tokenizer pads with zeros and cleans texts."""
    kept = {"all": lambda _: True, "none": lambda _: False}.get(files, files.__eq__)
    folder = with_files(
        written, tmp_path / "copy", lambda name: "model" in name or "config" in name or kept(name)
    )
    loaded = checkpoint.load(folder, device="cpu")
    assert loaded.cfg.text_cfg.hf_tokenizer_name is None
    assert isinstance(loaded.tokenizer(), CLIPTokenizer)


def test_a_damaged_tokenizer_is_not_replaced_by_clips(other: Path) -> None:
    (other / "tokenizer.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        checkpoint.load(other, device="cpu").tokenizer()


@pytest.mark.parametrize("form", ["transformers", "open_clip"])
def test_the_tokenizer_is_written_in_other_formats(other: Path, tmp_path: Path, form: str) -> None:
    convert(ConvertibleModel.from_loaded(checkpoint.load(other, device="cpu")), tmp_path / "out", form)
    again = checkpoint.load(tmp_path / "out", device="cpu")
    assert isinstance(again.tokenizer(), HFTokenizer)
    assert again.tokenizer().encode(TEXT) == [7, 3, 9]


def test_a_written_configuration_names_the_folder_itself(other: Path, tmp_path: Path) -> None:
    model = ConvertibleModel.from_loaded(checkpoint.load(other, device="cpu"))
    convert(model, tmp_path / "hub", "open_clip")
    config = json.loads((tmp_path / "hub" / FOLDER_CONFIG).read_text())
    assert config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "local-dir:."
    convert(model, tmp_path / "theirs", "transformers")
    assert "oneclip" not in json.loads((tmp_path / "theirs" / "config.json").read_text())


def test_the_error_for_a_missing_tokenizer_lists_its_files(written: Path, tmp_path: Path) -> None:
    """A folder of `model.save_pretrained`, without the tokenizer."""
    folder = with_files(
        written, tmp_path / "saved", lambda name: name in ("config.json", "preprocessor_config.json")
    )
    cfg = replace(CFG, text_cfg=replace(CFG.text_cfg, vocab_size=50))
    published = TransformersCLIP().write(NativeCheckpoint(build_model(cfg).state_dict(), cfg))
    (folder / "config.json").write_text(json.dumps(published.config))
    checkpoint.save(folder / "model.safetensors", published.state_dict)
    with pytest.raises(ConfigError, match=r"saved has no tokenizer: copy tokenizer\.json"):
        checkpoint.load(folder, device="cpu").tokenizer()
