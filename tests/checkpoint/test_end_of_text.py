"""A text is pooled at its end of text even if tokens were added to the vocabulary, as in transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_tokenizer_in_folder import CFG, written

from oneclip import checkpoint
from oneclip.checkpoint import ConvertibleModel, convert, pool_at_end_of_text
from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.model import build_model
from oneclip.text import CLIPTokenizer, HFTokenizer
from oneclip.train.initial_model import load_initial_model

__all__ = ["written"]  # a fixture

TEXTS = ["a <toy> cat", "a <toy> dog in the big park", "no toy"]
END = 49407
ROWS = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}


@pytest.fixture(scope="module")
def grown(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with one added token, made by `add_special_tokens` and `resize_token_embeddings` of transformers."""
    folder = tmp_path_factory.mktemp("grown") / "clip"
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(written)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<toy>"]})
    model = transformers.CLIPModel.from_pretrained(written)
    torch.manual_seed(0)
    model.text_model.resize_token_embeddings(len(tokenizer))
    model.config.text_config.vocab_size = len(tokenizer)
    model.config.text_config.eos_token_id = END
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes((written / "preprocessor_config.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def expected(grown: Path) -> torch.Tensor:
    """The features of transformers, pooled at `eos_token_id`."""
    model = transformers.CLIPTextModelWithProjection.from_pretrained(grown).eval()
    rows = transformers.CLIPTokenizerFast.from_pretrained(grown)(TEXTS, **ROWS)
    with torch.inference_mode():
        features: torch.Tensor = model(rows["input_ids"]).text_embeds
    assert not torch.allclose(features[0], features[1], atol=1e-3)
    return features


def features_of(loaded: checkpoint.LoadedModel) -> torch.Tensor:
    model: Any = loaded.model
    with torch.inference_mode():
        features: torch.Tensor = model.encode_text(loaded.tokenizer()(TEXTS))
    return features


@pytest.mark.parametrize("eos", [END, 2, 49408])
def test_a_transformers_folder_pools_at_the_end_of_text(
    grown: Path, expected: torch.Tensor, tmp_path: Path, eos: int
) -> None:
    """Also if its `eos_token_id` is the old one from before 2023, or is the last id of the vocabulary."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for path in grown.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = eos
    (folder / "config.json").write_text(json.dumps(config))
    loaded = checkpoint.load(folder, device="cpu")
    assert (loaded.cfg.text_cfg.pool_type, loaded.cfg.text_cfg.eos_id) == ("eos", END)
    torch.testing.assert_close(features_of(loaded), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["transformers", "open_clip", "safetensors"])
def test_other_formats_keep_the_pooling(
    grown: Path, expected: torch.Tensor, tmp_path: Path, form: str
) -> None:
    target = tmp_path / ("m.safetensors" if form == "safetensors" else "out")
    model = ConvertibleModel.from_loaded(checkpoint.load(grown, device="cpu"))
    if form == "safetensors":
        text = replace(model.cfg.text_cfg, hf_tokenizer_name=str(grown))
        model = replace(model, cfg=replace(model.cfg, text_cfg=text))
    convert(model, target, form)
    torch.testing.assert_close(
        features_of(checkpoint.load(target, device="cpu")), expected, rtol=1e-4, atol=1e-5
    )
    if form == "transformers":
        again = transformers.CLIPTextModelWithProjection.from_pretrained(target).eval()
        rows = transformers.AutoTokenizer.from_pretrained(target)(TEXTS, **ROWS)
        with torch.inference_mode():
            theirs = again(rows["input_ids"]).text_embeds
        torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-5)


def test_a_configuration_that_names_a_tokenizer_folder(
    grown: Path, expected: torch.Tensor, tmp_path: Path
) -> None:
    """As in open_clip, where the tower pools at the greatest id."""
    model = ConvertibleModel.from_loaded(checkpoint.load(grown, device="cpu"))
    text = replace(model.cfg.text_cfg, hf_tokenizer_name=str(grown), pool_type="argmax", eos_id=2)
    config = {"model_cfg": replace(model.cfg, text_cfg=text).to_dict(), "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    checkpoint.save(tmp_path / "open_clip_model.safetensors", model.state_dict)
    torch.testing.assert_close(
        features_of(checkpoint.load(tmp_path, device="cpu")), expected, rtol=1e-4, atol=1e-5
    )


def test_added_tokens_of_our_tokenizer_are_written_for_transformers(tmp_path: Path) -> None:
    options = {"additional_special_tokens": ["<toy>"]}
    text = replace(CFG.text_cfg, vocab_size=49409, tokenizer_kwargs=options)
    cfg = pool_at_end_of_text(replace(CFG, text_cfg=text))
    assert (cfg.text_cfg.pool_type, cfg.text_cfg.eos_id) == ("eos", END)
    torch.manual_seed(0)
    convert(
        ConvertibleModel(build_model(cfg).state_dict(), cfg, PreprocessCfg(size=32)),
        tmp_path / "out",
        "transformers",
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    rows, ours = tokenizer(TEXTS, **ROWS)["input_ids"], CLIPTokenizer(77, **options)(TEXTS)
    length = int((ours != 0).sum(1).max())
    assert torch.equal(rows[:, :length].masked_fill(ours[:, :length] == 0, 0), ours[:, :length])
    again = checkpoint.load(tmp_path / "out", device="cpu").tokenizer()
    assert isinstance(again, HFTokenizer)
    assert torch.equal(again(TEXTS), rows)


def test_pooling_at_an_id_that_the_tokenizer_never_writes_is_refused(grown: Path) -> None:
    config = json.loads((grown / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|endoftext|>"
    text = replace(CFG.text_cfg, hf_tokenizer_name=str(grown), pool_type="eos", eos_id=5)
    assert pool_at_end_of_text(replace(CFG, text_cfg=text)).text_cfg.eos_id == END
    text = replace(text, tokenizer_kwargs={"eos_token": "a</w>"})
    with pytest.raises(ConfigError, match=r"pools at id 5 \(eos_id\), which its tokenizer never writes"):
        pool_at_end_of_text(replace(CFG, text_cfg=text))


def test_a_new_training_pools_at_the_end_of_text(tmp_path: Path) -> None:
    text = replace(CFG.text_cfg, vocab_size=49409, tokenizer_kwargs={"additional_special_tokens": ["<toy>"]})
    (tmp_path / "model.json").write_text(json.dumps(replace(CFG, text_cfg=text).to_dict()))
    assert load_initial_model(str(tmp_path / "model.json"), None).cfg.text_cfg.eos_id == END


def test_a_correct_pooling_is_unchanged(written: Path) -> None:
    for cfg in (CFG, replace(CFG, text_cfg=replace(CFG.text_cfg, hf_tokenizer_name=str(written)))):
        assert pool_at_end_of_text(cfg) == cfg
