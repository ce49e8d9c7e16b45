"""Tiled losses equal the plain losses, hold no more than a tile, and reject invalid arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oneclip.errors import ConfigError, ShapeError
from oneclip.losses import ClipLoss, CoCaLoss, DistillClipLoss, SigLipLoss
from oneclip.losses import tiles as tiles_module

BATCH, WIDTH = 150, 64
LOSSES = (ClipLoss, SigLipLoss)
Loss = type[ClipLoss] | type[SigLipLoss]


def leaves(
    batch: int = BATCH, scale: float = 14.0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[Tensor]:
    """Return image features, similar text features, the temperature and the bias."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, batch, WIDTH, generator=generator)
    image, text = F.normalize(noise[0], dim=-1), F.normalize(noise[1] + noise[0] / 4, dim=-1)
    made = [image, text, torch.tensor(scale), torch.tensor(-10.0)]
    return [part.to(device, dtype).requires_grad_() for part in made]


def with_gradients(loss: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    value = loss(*inputs)
    return [value, *torch.autograd.grad(value, inputs)]


def assert_equal_within(got: list[Tensor], expected: list[Tensor], limit: float = 1e-5) -> None:
    """Compare each tensor relative to its norm; scalars that are zero up to rounding, relative to the loss."""
    value = float(expected[0].detach())
    for ours, theirs in zip(got, expected, strict=True):
        size = float(theirs.detach().norm()) if theirs.ndim else max(abs(float(theirs.detach())), value / 10)
        assert float((ours - theirs).detach().norm()) <= limit * size


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 14.0, 100.0])
@pytest.mark.parametrize("size", [7, 64, BATCH, 10 * BATCH])
def test_value_and_gradients_are_those_of_the_plain_loss(kind: Loss, scale: float, size: int) -> None:
    inputs = leaves(scale=scale)
    assert_equal_within(with_gradients(kind(tile_size=size), inputs), with_gradients(kind(), inputs))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(("batch", "size"), [(1, 1), (2, 2), (3, 2), (15, 1)])
def test_the_smallest_batches_and_tiles_have_the_plain_loss(kind: Loss, batch: int, size: int) -> None:
    inputs = leaves(batch, scale=4.0)
    assert_equal_within(with_gradients(kind(tile_size=size), inputs), with_gradients(kind(), inputs))


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_are_those_of_finite_differences(kind: Loss) -> None:
    inputs = leaves(3, scale=3.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(kind(tile_size=2), inputs)


@pytest.mark.parametrize("kind", LOSSES)
def test_logits_beyond_what_exponentials_can_hold_stay_finite(kind: Loss) -> None:
    inputs = leaves(20, scale=3000.0)
    assert_equal_within(with_gradients(kind(tile_size=6), inputs), with_gradients(kind(), inputs), 1e-4)


def test_a_small_loss_of_large_logits_is_not_rounded_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles_module, "_has_onednn", lambda: False)  # exactly the same logits, 60 and 54
    similar = torch.eye(16) * 0.1**0.5 + F.one_hot(torch.tensor(0), 16) * 0.9**0.5
    rows = F.normalize(similar[1:], dim=-1)
    plain = ClipLoss()(rows, rows, torch.tensor(60.0))
    torch.testing.assert_close(
        ClipLoss(tile_size=15)(rows, rows, torch.tensor(60.0)), plain, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_the_bias_is_optional(kind: Loss) -> None:
    inputs = leaves()[:3]
    assert_equal_within(with_gradients(kind(tile_size=40), inputs), with_gradients(kind(), inputs))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 2), (0, 1)])
def test_gradients_are_computed_only_for_inputs_that_require_them(
    kind: Loss, frozen: tuple[int, ...]
) -> None:
    inputs = [part.detach() if n in frozen else part for n, part in enumerate(leaves())]
    kind(tile_size=40)(*inputs).backward()  # type: ignore[union-attr]
    plain = [part.detach().requires_grad_(part.requires_grad) for part in inputs]
    kind()(*plain).backward()  # type: ignore[union-attr]
    for ours, theirs in zip(inputs[:3], plain[:3], strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_scale_and_a_bias_may_be_numbers_or_vectors_of_one(kind: Loss) -> None:
    image, text, scale, bias = leaves()
    as_numbers = kind(tile_size=40)(image, text, scale.item(), bias.item())
    vectors = scale.detach()[None].requires_grad_(), bias.detach()[None].requires_grad_()
    value = kind(tile_size=40)(image, text, *vectors)
    torch.testing.assert_close(value, as_numbers)
    value.backward()  # type: ignore[union-attr]
    assert all(vector.grad is not None and vector.grad.shape == (1,) for vector in vectors)


@pytest.mark.parametrize("kind", LOSSES)
def test_bf16_features_under_autocast_are_scored_in_fp32(kind: Loss) -> None:
    image, text, *rest = leaves()
    halves = [part.detach().bfloat16().requires_grad_() for part in (image, text)]
    with torch.autocast("cpu", torch.bfloat16):
        value = kind(tile_size=40)(*halves, *rest)
        value.backward()  # type: ignore[union-attr]
    floats = [part.detach().float().requires_grad_() for part in halves]
    plain = kind()(*floats, *rest)
    plain.backward()  # type: ignore[union-attr]
    torch.testing.assert_close(value, plain, rtol=1e-5, atol=0)
    for half, whole in zip(halves, floats, strict=True):
        assert half.grad is not None
        assert half.grad.dtype == torch.bfloat16
        assert whole.grad is not None
        torch.testing.assert_close(half.grad, whole.grad.bfloat16())


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        tensors: Iterator[Tensor] = (leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
        self.elements = max([self.elements, *(tensor.numel() for tensor in tensors)])
        return output


@pytest.mark.parametrize("kind", LOSSES)
def test_no_tensor_is_larger_than_the_features_and_a_tile(kind: Loss) -> None:
    inputs, size = leaves(200), 32
    with LargestTensor() as seen:
        with_gradients(kind(tile_size=size), inputs)
    assert seen.elements == max(200 * WIDTH, size * size)


def test_torch_mm_is_used_where_onednn_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles_module, "_has_onednn", lambda: False)
    inputs = leaves()
    assert_equal_within(with_gradients(ClipLoss(tile_size=40), inputs), with_gradients(ClipLoss(), inputs))


@pytest.mark.parametrize("kind", LOSSES)
def test_a_dict_has_the_tiled_loss(kind: Loss) -> None:
    loss, inputs = kind(tile_size=40), leaves()
    named = loss(*inputs, output_dict=True)
    assert isinstance(named, dict)
    assert torch.equal(named["contrastive_loss"], loss(*inputs))  # type: ignore[arg-type]


def test_coca_has_its_contrastive_loss_in_tiles() -> None:
    image, text, scale, _ = leaves()
    logits, labels = torch.randn(BATCH, 5, 11), torch.randint(11, (BATCH, 5))
    arguments = image, text, logits, labels, scale
    tiled, plain = CoCaLoss(2.0, 1.5, tile_size=40)(*arguments), CoCaLoss(2.0, 1.5)(*arguments)
    for ours, theirs in zip(tiled, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_distillation_refuses_tiles() -> None:
    with pytest.raises(ConfigError, match="DistillClipLoss has no tiled form"):
        DistillClipLoss(tile_size=40)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_an_invalid_tile_size_is_refused(kind: Loss, size: Any) -> None:
    with pytest.raises(ConfigError, match="tile_size is"):
        kind(tile_size=size)


@pytest.mark.parametrize("kind", LOSSES)
def test_unequal_numbers_of_images_and_texts_are_refused(kind: Loss) -> None:
    image, text, scale, bias = leaves()
    with pytest.raises(ShapeError, match=r"\(150, 64\) and text features \(149, 64\)"):
        kind(tile_size=40)(image, text[:-1], scale, bias)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("size", [64, 1000])
def test_on_cuda_they_are_those_of_the_plain_loss_on_the_cpu(kind: Loss, size: int) -> None:
    got = with_gradients(kind(tile_size=size), leaves(device="cuda"))
    assert_equal_within([part.cpu() for part in got], with_gradients(kind(), leaves()))
