"""`open_clip.tokenizer`: the published classes, their arguments and attributes."""

from __future__ import annotations

import inspect
import json
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import open_clip
from oneclip.errors import CheckpointError, ConfigError
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer, get_reduction_mask_fn

sys.path.append(str(Path(__file__).resolve().parents[1] / "text"))

from tiny_tokenizers import bert, nllb, siglip2


def arguments(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_constructors_take_the_published_arguments() -> None:
    assert arguments(HFTokenizer) == [
        "tokenizer_name",
        "context_length",
        "clean",
        "strip_sep_token",
        "language",
        "cache_dir",
        "tokenizer_mode",
        "kwargs",
    ]
    assert arguments(SigLipTokenizer)[:2] == ["tokenizer_name", "context_length"]
    assert set(SigLipTokenizer.VOCAB_FILES) == {"c4-en", "mc4", "gemma"}
    assert arguments(HFTokenizer.save_pretrained) == ["self", "dest"]
    assert arguments(HFTokenizer.set_language) == ["self", "src_lang"]


def test_positional_arguments_have_the_published_meaning(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(str(bert(tmp_path)), 9, "lower", True)
    assert (tokenizer.context_length, tokenizer.strip_sep_token, tokenizer.tokenizer_mode) == (9, True, "")
    assert tokenizer.clean_fn("A  Dog") == "a dog"
    assert tokenizer("a dog").shape == (1, 9)


def test_a_language_is_set_or_warned_about(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(str(nllb(tmp_path / "nllb")), 8, language="fra_Latn")
    french = tokenizer("a dog")
    tokenizer.set_language("tha_Thai")
    assert not tokenizer("a dog").equal(french)
    with pytest.warns(UserWarning, match="Cannot set language for the tokenizer"):
        HFTokenizer(str(bert(tmp_path / "bert")), language="fra_Latn")


def test_the_tokenizer_of_transformers_can_be_read(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(str(siglip2(tmp_path)), 16)
    ids = tokenizer(["a photo of the dog"])
    assert tokenizer.tokenizer.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.tokenizer.batch_decode(ids, skip_special_tokens=True) == ["a photo of the dog"]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_cfg": [1]},
        {"model_cfg": {}},
        {"model_cfg": {"text_cfg": [1]}},
        *(
            {"model_cfg": {"text_cfg": text_cfg}}
            for text_cfg in (
                {"unknown": 1},
                {"tokenizer_kwargs": [1]},
                {"tokenizer_kwargs": {"clean": ["lower"]}},
                {"tokenizer_kwargs": {"unknown": 1}},
                {"tokenizer_mode": "clips"},
                {"context_length": 10**9},
                {"context_length": "77"},
                {"hf_tokenizer_name": [1]},
                {"hf_tokenizer_name": "a b"},
            )
        ),
    ],
    ids=str,
)
def test_an_invalid_configuration_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises((CheckpointError, ConfigError)):
        open_clip.get_tokenizer(f"local-dir:{tmp_path}")


def test_an_invalid_configuration_is_not_returned(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": [1]}')
    with pytest.raises(CheckpointError, match=r"model_cfg of local-dir:.* is a list"):
        open_clip.get_model_config(f"local-dir:{tmp_path}")


def test_it_may_be_sent_to_other_processes(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(str(siglip2(tmp_path)), 16, "canonicalize")
    assert pickle.loads(pickle.dumps(tokenizer))("A dog!").equal(tokenizer("a dog"))


def test_a_simple_tokenizer_takes_a_reduction() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = SimpleTokenizer(context_length=6, reduction_mask="simple")
        rows = tokenizer(["a b c d e f g h i j"] * 3)
    assert rows.shape == (3, 6)
    assert rows[:, -1].eq(tokenizer.eot_token_id).all()
    assert tokenizer.reduction_fn is get_reduction_mask_fn("simple")


def test_lengths_follow_the_published_rule(tmp_path: Path) -> None:
    """The length of the call is used, else that of the constructor."""
    tokenizer = HFTokenizer(str(bert(tmp_path)))
    assert tokenizer("a").shape == (1, open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    assert tokenizer("a", 12).shape == (1, 12)
    assert tokenizer("a", context_length=12).dtype == torch.int64


def test_the_tokenizer_of_transformers_runs_no_code_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "builtins.input", lambda *given: pytest.fail("transformers asked for confirmation on standard input")
    )
    bert(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Odd", "auto_map": {"AutoTokenizer": ["odd.Odd", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "odd.py").write_text("open('ran', 'w')\nclass Odd: pass\n")
    monkeypatch.chdir(tmp_path)
    tokenizer = HFTokenizer(str(tmp_path), 9, "lower", pad_token="[PAD]")
    with pytest.raises(ConfigError, match="trust_remote_code"):
        _ = tokenizer.tokenizer
    assert not (tmp_path / "ran").exists()
