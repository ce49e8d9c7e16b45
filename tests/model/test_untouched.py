"""Texts are computed whole while a hook, a patch or a mode could see the difference."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from oneclip.model import CLIP, CustomTextCLIP
from oneclip.model.untouched import is_untouched

VIT = {"image_size": 16, "patch_size": 8, "layers": 1, "width": 32, "head_width": 32}
TEXT = {"context_length": 24, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}
Touch = Callable[[Any], Any]


def texts() -> Tensor:
    """Two texts whose last pooled token is the ninth of 24."""
    ids = torch.zeros(2, 24, dtype=torch.long)
    ids[:, :8], ids[0, 5], ids[1, 8] = 7, 99, 99
    return ids


def hook(name: str) -> Touch:
    return lambda tower: getattr(tower.transformer.resblocks[1].mlp.c_proj, name)(lambda *_: None).remove


def global_hook(name: str) -> Touch:
    return lambda tower: getattr(nn.modules.module, name)(lambda *_: None).remove


def entered(make: Callable[[Any], AbstractContextManager[Any]]) -> Touch:
    def touch(tower: Any) -> Any:
        stack = ExitStack()
        stack.enter_context(make(tower))
        return stack.close

    return touch


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Any:
    old = getattr(owner, name)
    setattr(owner, name, value)
    yield
    if isinstance(owner, nn.Module) and not isinstance(old, nn.Module):
        delattr(owner, name)
    else:
        setattr(owner, name, old)


def wrapped(function: Any) -> Any:
    """A function that passes itself off as another."""
    return functools.wraps(function)(lambda *args, **options: function(*args, **options))


class Mine(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class Mode(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


TOUCHES: dict[str, Touch] = {
    **{
        name: hook(name)
        for name in (
            "register_forward_hook",
            "register_forward_pre_hook",
            "register_full_backward_hook",
            "register_full_backward_pre_hook",
        )
    },
    **{
        name: global_hook(name)
        for name in (
            "register_module_forward_hook",
            "register_module_forward_pre_hook",
            "register_module_full_backward_hook",
        )
    },
    "a patched forward": entered(
        lambda t: attribute(
            t.transformer.resblocks[0].attn, "forward", wrapped(nn.MultiheadAttention.forward)
        )
    ),
    "a patched method of a block": entered(
        lambda t: attribute(t.transformer.resblocks[0], "attention", lambda *args, **options: None)
    ),
    "a patched class": entered(lambda t: mock.patch.object(nn.Linear, "forward", wrapped(nn.Linear.forward))),
    "a module of one's own": entered(
        lambda t: attribute(t.transformer.resblocks[0].mlp, "c_fc", Mine(32, 128))
    ),
    "calls patched": entered(lambda t: mock.patch.object(nn.Module, "__call__", wrapped(nn.Module.__call__))),
    "a patched function": entered(
        lambda t: mock.patch.object(
            F, "scaled_dot_product_attention", wrapped(F.scaled_dot_product_attention)
        )
    ),
    "a function mode": entered(lambda t: Mode()),
    "a dispatch mode": entered(lambda t: FlopCounterMode(display=False)),
}


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("name", TOUCHES)
def test_texts_stay_whole_while_something_observes_the_tower(name: str, kind: type) -> None:
    model = kind(16, VIT, TEXT).eval()
    assert model.trim_unseen(texts()).shape[1] == 9
    undo = TOUCHES[name](model.text_module())
    try:
        assert model.trim_unseen(texts()).shape[1] == 24
    finally:
        undo()
    assert model.trim_unseen(texts()).shape[1] == 9


def test_changes_elsewhere_do_not_prevent_trimming() -> None:
    model = CLIP(16, VIT, TEXT).eval()
    model.visual.register_forward_hook(lambda *_: None)  # the other tower's
    model.transformer.resblocks[0].attn = nn.MultiheadAttention(32, 2, batch_first=True)
    model.transformer.resblocks[0].mlp.gelu = nn.SiLU()
    with torch.device("cpu"), torch.no_grad():
        assert model.trim_unseen(texts()).shape[1] == 9


def test_a_flop_counter_counts_whole_texts() -> None:
    model = CLIP(16, VIT, TEXT).eval()
    counts = []
    for ids in (texts(), torch.full((2, 24), 7)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.encode_text(ids)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_a_module_without_children_is_checked() -> None:
    layer = nn.Linear(1, 1)
    assert is_untouched(layer)
    layer.register_forward_hook(lambda *_: None)
    assert not is_untouched(layer)
