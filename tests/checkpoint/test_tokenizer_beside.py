"""Of which tokenizer a model in transformers' form is whose folder has one: shapes do not say, its vocabulary does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import Hub, in_this_process
from tokenizers import Tokenizer, models, pre_tokenizers

from oneclip import checkpoint
from oneclip.checkpoint.formats import TransformersCLIP
from oneclip.checkpoint.formats.base import Converted
from oneclip.checkpoint.save import FOLDER_CONFIG, Exportable, export
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.model import build_model
from oneclip.text import CLIPTokenizer, HFTokenizer
from oneclip.text.factory import BESIDE

VISION = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32)
CFG = ModelCfg(16, VISION, CLIPTextCfg(width=16, heads=2, layers=1), quick_gelu=True)
CAPTION = "w7 w3 w9"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's own tokenizer beside a small model with as many ids."""
    folder = tmp_path_factory.mktemp("model") / "clip"
    export(Exportable(build_model(CFG).state_dict(), CFG, PreprocessCfg(size=32)), folder, "transformers")
    return folder


def with_files(source: Path, folder: Path, keep: Callable[[str], bool]) -> Path:
    folder.mkdir()
    for path in source.iterdir():
        if keep(path.name):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def other(written: Path, tmp_path: Path) -> Path:
    """The same model, and beside it a tokenizer of words: another one with the same number of ids."""
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


def test_another_vocabulary_beside_it_is_not_taken_for_clips(other: Path, server: Hub) -> None:
    server.publish("own/clip", {path.name: path.read_bytes() for path in other.iterdir()})
    for name in (str(other), str(other / "model.safetensors"), "hf-hub:own/clip"):
        loaded = checkpoint.load(name, device="cpu")
        assert loaded.cfg.text_cfg.hf_tokenizer_name == BESIDE
        assert loaded.tokenizer().encode(CAPTION) == [7, 3, 9]


@pytest.mark.parametrize("files", ["all", "tokenizer.json", "vocab.json", "none"])
def test_clips_vocabulary_beside_it_is_read_with_clips_tokenizer(
    written: Path, tmp_path: Path, files: str
) -> None:
    """Its rows are padded with zeros, and captions are cleaned."""
    kept = {"all": lambda _: True, "none": lambda _: False}.get(files, files.__eq__)
    folder = with_files(
        written, tmp_path / "copy", lambda name: "model" in name or "config" in name or kept(name)
    )
    loaded = checkpoint.load(folder, device="cpu")
    assert loaded.cfg.text_cfg.hf_tokenizer_name is None
    assert isinstance(loaded.tokenizer(), CLIPTokenizer)


def test_a_damaged_tokenizer_does_not_lead_to_clips(other: Path) -> None:
    (other / "tokenizer.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        checkpoint.load(other, device="cpu").tokenizer()


@pytest.mark.parametrize("form", ["transformers", "open_clip"])
def test_it_goes_along_to_other_forms(other: Path, tmp_path: Path, form: str) -> None:
    export(Exportable.of(checkpoint.load(other, device="cpu")), tmp_path / "out", form)
    again = checkpoint.load(tmp_path / "out", device="cpu")
    assert isinstance(again.tokenizer(), HFTokenizer)
    assert again.tokenizer().encode(CAPTION) == [7, 3, 9]


def test_what_is_written_for_it_is_no_sentence(other: Path, tmp_path: Path) -> None:
    model = Exportable.of(checkpoint.load(other, device="cpu"))
    export(model, tmp_path / "hub", "open_clip")
    said = json.loads((tmp_path / "hub" / FOLDER_CONFIG).read_text())
    assert said["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "local-dir:."
    export(model, tmp_path / "theirs", "transformers")
    assert "oneclip" not in json.loads((tmp_path / "theirs" / "config.json").read_text())


def test_a_model_without_its_tokenizer_says_which_files_to_bring(written: Path, tmp_path: Path) -> None:
    """As `model.save_pretrained` leaves it, where nobody thought of the tokenizer."""
    folder = with_files(
        written, tmp_path / "saved", lambda name: name in ("config.json", "preprocessor_config.json")
    )
    cfg = replace(CFG, text_cfg=replace(CFG.text_cfg, vocab_size=50))
    published = TransformersCLIP().write(Converted(build_model(cfg).state_dict(), cfg))
    (folder / "config.json").write_text(json.dumps(published.config))
    checkpoint.save(folder / "model.safetensors", published.state_dict)
    with pytest.raises(ConfigError, match=r"saved holds no tokenizer: bring its tokenizer\.json"):
        checkpoint.load(folder, device="cpu").tokenizer()
