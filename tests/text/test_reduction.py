"""Shortening of captions at random or by parts of speech."""

from __future__ import annotations

import random
import re
import sys
import types
from typing import Any

import pytest
import torch

from oneclip.config import CLIPTextCfg
from oneclip.errors import ConfigError, MissingExtraError, TextTooLongError
from oneclip.installation import install_command
from oneclip.text import CLIPTokenizer, get_tokenizer
from oneclip.text.clip.reduction import get_reduction_mask_fn, random_mask_tokenize

LONG = "zero one two three four five six seven eight nine " * 4
PLAIN = CLIPTokenizer()
SOT, EOT = PLAIN.sot_token_id, PLAIN.eot_token_id


@pytest.mark.parametrize("name", ["simple", "random", "shuffle"])
def test_a_caption_that_fits_is_not_changed(name: str) -> None:
    tokenizer = CLIPTokenizer(8, reduction_mask=name)
    before = torch.get_rng_state(), random.getstate()
    assert tokenizer(["a dog", ""]).equal(PLAIN(["a dog", ""], 8))
    assert torch.get_rng_state().equal(before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize("name", ["simple", "random", "shuffle"])
def test_kept_tokens_are_those_of_the_caption(name: str) -> None:
    tokenizer = CLIPTokenizer(9, reduction_mask=name)
    row = tokenizer(LONG)[0].tolist()
    assert (row[0], row[-1]) == (SOT, EOT)
    assert set(row[1:-1]) <= set(PLAIN.encode(LONG))


def test_simple_keeps_consecutive_tokens() -> None:
    ids, row = PLAIN.encode(LONG), CLIPTokenizer(9, reduction_mask="simple")(LONG)[0].tolist()
    assert row[1:-1] in [ids[start : start + 7] for start in range(len(ids) - 6)]


def test_random_tokens_keep_their_order_unless_shuffled() -> None:
    ids = list(range(100, 140))
    for shuffle in (False, True):
        rows = random_mask_tokenize(["x"] * 20, 12, 1, 2, lambda text: ids, shuffle=shuffle)
        in_order = [row == sorted(row) for row in rows[:, 1:-1].tolist()]
        assert all(in_order) is not shuffle


def test_a_caption_may_still_be_refused_for_its_length() -> None:
    with pytest.raises(TextTooLongError):
        CLIPTokenizer(8, reduction_mask="random")(LONG, overflow="error")


def test_a_configuration_can_set_a_reduction() -> None:
    torch.manual_seed(0)
    tokenizer = get_tokenizer(CLIPTextCfg(context_length=8, tokenizer_kwargs={"reduction_mask": "shuffle"}))
    assert not tokenizer(LONG).equal(PLAIN(LONG, 8))


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown reduction_mask 'first'; available: simple, random"):
        get_reduction_mask_fn("first")


def test_parts_of_speech_need_nltk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("syntax"))):
        CLIPTokenizer(8, reduction_mask="syntax")(LONG)


def test_parts_of_speech_need_nltks_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(path: str) -> None:
        raise LookupError(path)

    nltk: Any = types.ModuleType("nltk")
    nltk.data = types.SimpleNamespace(find=find)
    monkeypatch.setitem(sys.modules, "nltk", nltk)
    with pytest.raises(ConfigError, match=r"python -m nltk\.downloader punkt_tab"):
        CLIPTokenizer(8, reduction_mask="syntax")(LONG)
