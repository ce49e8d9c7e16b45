"""Shared prefixes of texts are computed once, and the features are those of the plain module."""

from typing import Any

import pytest
import torch
from engine_models import CONTEXT, END, TEXT, assert_same, compare, small_model
from torch import Tensor

from oneclip.engine.plan import Plan, make_text_plan
from oneclip.engine.text_plan import TextPlan

START = 1


def prompts(names: int = 9) -> Tensor:
    """Make ids: two templates for each name, of one or two tokens, and texts that share only the start of text."""
    rows = [
        [START, *template, *((40 + name, 9) if name % 2 else (40 + name,)), END]
        for name in range(names)
        for template in ([2, 3, 4, 5], [2, 3, 6])
    ]
    rows += [[START, 20 + n, 21, END] for n in range(3)]
    ids = torch.zeros(len(rows), CONTEXT, dtype=torch.long)
    for row, text in zip(ids, rows, strict=True):
        row[: len(text)] = torch.tensor(text)
    return ids


def tokens_computed(plan: Plan, ids: Tensor, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> int:
    """Count the tokens that go through the blocks of a plan that is not built yet."""
    counted: list[int] = []
    encode_prefixes, encode_suffixes = TextPlan._encode_prefixes, TextPlan._encode_suffixes

    def count_prefixes(self: TextPlan, ids: Tensor) -> Any:
        counted.append(ids.numel())
        return encode_prefixes(self, ids)

    def count_suffixes(self: TextPlan, batch: Any) -> Tensor:
        counted.append(batch.ids.numel())
        return encode_suffixes(self, batch)

    monkeypatch.setattr(TextPlan, "_encode_prefixes", count_prefixes)
    monkeypatch.setattr(TextPlan, "_encode_suffixes", count_suffixes)
    monkeypatch.setattr("oneclip.engine.prefix_sharing.MIN_TOKENS_PER_THREAD", 1)
    with torch.inference_mode():
        for _ in range(times):
            plan(ids)
    return sum(counted)


@pytest.mark.parametrize("least", [1, 10, 1000])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # int8 depends on what is computed together
@pytest.mark.parametrize("option", TEXT)
def test_texts_with_shared_prefixes_have_the_features_of_the_plain_module(
    option: str, precision: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.engine.prefix_sharing.MIN_TOKENS_PER_THREAD", least)
    compare(small_model(text=TEXT[option], custom_text=True), precision, ids=prompts())


def test_more_texts_than_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.engine.prefix_sharing.MAX_TEXTS", 5)
    compare(small_model(), "fp32", ids=prompts())


def test_a_shared_prefix_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, plan = prompts(), make_text_plan(small_model(), "fp32")
    lengths = ids.argmax(dim=1) + 1
    own = int((lengths[:18] - torch.tensor([5, 4] * 9)).sum() + (lengths[18:] - 1).sum())
    assert (
        tokens_computed(plan, ids, monkeypatch) == own + 3 * 5
    )  # three prefixes, in one batch as wide as the longest


def test_the_start_of_text_is_computed_once_for_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, plan = prompts()[18:], make_text_plan(small_model(), "fp32")
    assert tokens_computed(plan, ids, monkeypatch, times=2) == 1 + 2 * int(ids.argmax(dim=1).sum())


def test_cached_prefixes_follow_the_weights() -> None:
    model, ids = small_model(), prompts()
    plan = make_text_plan(model, "fp32")
    with torch.inference_mode():
        before = plan(ids[18:])
    with torch.no_grad():
        model.positional_embedding += 0.1
    with torch.inference_mode():
        after = plan(ids[18:])
        assert_same(after, model.encode_text(ids[18:], normalize=False))
    assert before is not None
    assert after is not None
    assert not torch.equal(before, after)


def test_a_text_without_an_end_is_pooled_at_its_first_token() -> None:
    ids = torch.cat([prompts(), torch.tensor([[START, 2, 3, 4, 5, *[7] * (CONTEXT - 5)]])])
    compare(small_model(text={"pool_type": "eos", "eos_id": END}), "fp32", ids=ids)


def test_texts_of_full_length_with_a_long_prefix() -> None:
    ids = torch.tensor([[START, 2, 3, 4, 5, *[10 + n] * (CONTEXT - 6), END] for n in range(6)])
    ids = torch.cat([ids, prompts()])
    compare(small_model(), "fp32", ids=ids)
