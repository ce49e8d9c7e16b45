"""What captions begin with is computed once, and the features are those of the plain module."""

from typing import Any

import pytest
import torch
from test_plans import CONTEXT, END, TEXT, assert_same, compare, model_of
from torch import Tensor

from oneclip.engine.plan import Plan, text_plan
from oneclip.engine.text_plan import TextPlan

START = 1


def prompts(names: int = 9) -> Tensor:
    """Two templates for each name, of two tokens or one; and a few captions that share the start of text alone."""
    rows = [
        [START, *template, *((40 + name, 9) if name % 2 else (40 + name,)), END]
        for name in range(names)
        for template in ([2, 3, 4, 5], [2, 3, 6])
    ]
    rows += [[START, 20 + n, 21, END] for n in range(3)]
    ids = torch.zeros(len(rows), CONTEXT, dtype=torch.long)
    for row, caption in zip(ids, rows, strict=True):
        row[: len(caption)] = torch.tensor(caption)
    return ids


def tokens_computed(plan: Plan, ids: Tensor, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> int:
    """How many tokens go through the blocks, of a plan that is not made yet."""
    counted: list[int] = []
    embed, go_on = TextPlan._begin, TextPlan._go_on

    def begins(self: TextPlan, beginnings: Tensor) -> Any:
        counted.append(beginnings.numel())
        return embed(self, beginnings)

    def goes_on(self: TextPlan, job: Any) -> Tensor:
        counted.append(job.own.numel())
        return go_on(self, job)

    monkeypatch.setattr(TextPlan, "_begin", begins)
    monkeypatch.setattr(TextPlan, "_go_on", goes_on)
    monkeypatch.setattr("oneclip.engine.prefix_sharing.LEAST", 1)
    with torch.inference_mode():
        for _ in range(times):
            plan(ids)
    return sum(counted)


@pytest.mark.parametrize("least", [1, 10, 1000])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # int8 depends on what is computed together
@pytest.mark.parametrize("option", TEXT)
def test_captions_that_begin_alike(
    option: str, precision: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.engine.prefix_sharing.LEAST", least)
    compare(model_of(text=TEXT[option], custom_text=True), precision, ids=prompts())


def test_more_captions_than_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.engine.prefix_sharing.MOST", 5)
    compare(model_of(), "fp32", ids=prompts())


def test_a_beginning_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, plan = prompts(), text_plan(model_of(), "fp32")
    lengths = ids.argmax(dim=1) + 1
    own = int((lengths[:18] - torch.tensor([5, 4] * 9)).sum() + (lengths[18:] - 1).sum())
    assert (
        tokens_computed(plan, ids, monkeypatch) == own + 3 * 5
    )  # three beginnings, in one batch as wide as the longest


def test_the_start_of_text_is_computed_once_for_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, plan = prompts()[18:], text_plan(model_of(), "fp32")
    assert tokens_computed(plan, ids, monkeypatch, times=2) == 1 + 2 * int(ids.argmax(dim=1).sum())


def test_new_weights_begin_anew() -> None:
    model, ids = model_of(), prompts()
    plan = text_plan(model, "fp32")
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


def test_a_caption_without_an_end_is_pooled_at_its_first_token() -> None:
    ids = torch.cat([prompts(), torch.tensor([[START, 2, 3, 4, 5, *[7] * (CONTEXT - 5)]])])
    compare(model_of(text={"pool_type": "eos", "eos_id": END}), "fp32", ids=ids)


def test_captions_as_long_as_the_context_stand_behind_a_long_beginning() -> None:
    ids = torch.tensor([[START, 2, 3, 4, 5, *[10 + n] * (CONTEXT - 6), END] for n in range(6)])
    ids = torch.cat([ids, prompts()])
    compare(model_of(), "fp32", ids=ids)
