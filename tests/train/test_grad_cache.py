"""Gradient caching: micro-batches have the gradients of the whole batch, also with dropout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
import torch.nn.functional as F
from tiny import PIXELS, tiny_cfg
from torch import Tensor, nn

from oneclip.config import CLIPVisionCfg
from oneclip.errors import ConfigError
from oneclip.losses import ClipLoss, CoCaLoss, SigLipLoss
from oneclip.model import build_model
from oneclip.train import Batch, Features
from oneclip.train.grad_cache import cached_backward
from tests.ranks import run_ranks
from tests.train.grad_cache_ranks import gradients_of, small_model, some_pairs

ROWS, MICRO = 10, 4  # the last micro-batch has fewer


class TowersAndLoss:
    """Both towers and a loss, like `Stepper.encode` and `Stepper.losses`."""

    def __init__(self, model: Any, loss: nn.Module) -> None:
        self.model, self.loss = model, loss
        self.sizes: list[int] = []

    def encode(self, batch: Batch) -> Features:
        self.sizes.append(len(batch.images))
        image, text = self.model.encode_image(batch.images), self.model.encode_text(batch.texts)
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        return Features(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale, bias)

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        bias = [] if features.logit_bias is None else [features.logit_bias]
        return {"loss": self.loss(features.image, features.text, features.logit_scale, *bias)}

    def whole(self, batch: Batch, micro: int | None = None) -> dict[str, Tensor]:
        """Gradients with the graph of everything kept, encoded at once or in parts."""
        step = micro or ROWS
        parts = [
            self.encode(Batch(batch.images[n : n + step], cast(Tensor, batch.texts)[n : n + step]))
            for n in range(0, ROWS, step)
        ]
        image, text = (torch.cat([getattr(part, name) for part in parts]) for name in ("image", "text"))
        self.losses(parts[-1]._replace(image=image, text=text), batch)["loss"].backward()
        return self.take_gradients()

    def cached(self, batch: Batch, **more: Any) -> dict[str, Tensor]:
        self.seen = cached_backward(self.encode, self.losses, batch, MICRO, model=self.model, **more)
        return self.take_gradients()

    def take_gradients(self) -> dict[str, Tensor]:
        found = gradients_of(self.model)
        self.model.zero_grad(set_to_none=True)
        return found


def assert_same(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    greatest = max(float(value.norm()) for value in expected.values())
    for name, value in expected.items():
        # a key's bias in attention has a gradient of zero but for rounding
        assert float((got[name] - value).norm()) <= 1e-5 * max(float(value.norm()), 1e-4 * greatest), name


@pytest.mark.parametrize("loss", [ClipLoss(), ClipLoss(tile_size=3), SigLipLoss(), SigLipLoss(tile_size=3)])
def test_gradients_are_those_of_the_whole_batch(loss: nn.Module) -> None:
    towers = TowersAndLoss(small_model(init_logit_bias=-2.0), loss)
    assert_same(towers.cached(some_pairs(ROWS)), towers.whole(some_pairs(ROWS)))
    assert towers.sizes[:6] == [4, 4, 2] * 2


def test_losses_come_back_without_graph() -> None:
    towers = TowersAndLoss(small_model(), ClipLoss())
    towers.cached(some_pairs(ROWS))
    expected = towers.losses(towers.encode(some_pairs(ROWS)), some_pairs(ROWS))["loss"]
    torch.testing.assert_close(towers.seen["loss"], expected.detach())
    assert not towers.seen["loss"].requires_grad


def dropping() -> Any:
    """A model that drops patches, and half of its features."""
    cfg = tiny_cfg()
    model = build_model(replace(cfg, vision_cfg=replace(cfg.vision_cfg, patch_dropout=0.5))).train()
    for name in ("encode_image", "encode_text"):
        setattr(model, name, dropped(getattr(model, name)))
    return model


def dropped(encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda inputs: F.dropout(encode(inputs), 0.5)


def test_both_passes_drop_the_same_units_and_patches() -> None:
    torch.manual_seed(0)
    towers = TowersAndLoss(dropping(), ClipLoss())
    torch.manual_seed(1)
    got = towers.cached(some_pairs(ROWS))
    torch.manual_seed(1)
    expected = towers.whole(some_pairs(ROWS), MICRO)
    assert_same(got, expected)
    torch.manual_seed(2)
    other = towers.whole(some_pairs(ROWS), MICRO)
    assert not torch.allclose(other["visual.proj"], expected["visual.proj"], rtol=0.1)


def test_the_random_state_is_that_after_encoding_once() -> None:
    towers = TowersAndLoss(dropping(), ClipLoss())
    torch.manual_seed(1)
    towers.cached(some_pairs(ROWS))
    got = torch.rand(3)
    torch.manual_seed(1)
    towers.whole(some_pairs(ROWS), MICRO)
    assert torch.equal(got, torch.rand(3))


def test_the_loss_can_be_scaled_before_the_backward_pass() -> None:
    towers = TowersAndLoss(small_model(), ClipLoss())
    got = towers.cached(some_pairs(ROWS), scale_loss=lambda loss: loss / 4)
    assert_same(got, {name: value / 4 for name, value in towers.whole(some_pairs(ROWS)).items()})


def test_gradients_are_added_to_existing_ones() -> None:
    towers = TowersAndLoss(small_model(), ClipLoss())
    expected = towers.whole(some_pairs(ROWS))
    cached_backward(towers.encode, towers.losses, some_pairs(ROWS), MICRO, model=towers.model)
    assert_same(towers.cached(some_pairs(ROWS)), {name: 2 * value for name, value in expected.items()})


def test_a_locked_tower_stays_without_gradients() -> None:
    towers = TowersAndLoss(small_model(), ClipLoss())
    towers.model.lock_image_tower()
    got = towers.cached(some_pairs(ROWS))
    assert not any(name.startswith("visual.") for name in got)
    assert_same(got, towers.whole(some_pairs(ROWS)))


def test_a_batch_no_larger_than_a_micro_batch_is_encoded_once() -> None:
    towers = TowersAndLoss(small_model(), ClipLoss())
    cached_backward(towers.encode, towers.losses, some_pairs(MICRO), MICRO, model=towers.model)
    assert towers.sizes == [MICRO]


class Written(NamedTuple):
    image: Tensor
    text: Tensor
    logit_scale: Tensor
    captions: dict[str, Tensor]


class Writer(nn.Module):
    """Words to features, and to logits of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(49408, 8), nn.Linear(8, 11)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch: Batch) -> Written:
        words = self.words(batch.texts)
        features = F.normalize(words.mean(1), dim=-1)
        captions = {"logits": self.head(words), "labels": cast(Tensor, batch.texts) % 11}
        return Written(features.roll(1, -1), features, self.logit_scale.exp(), captions)


def test_tensors_in_a_mapping_get_their_gradients() -> None:
    writer, loss = Writer(), CoCaLoss(1.0, 1.0)

    def losses(features: Any, batch: Batch) -> dict[str, Tensor]:
        logits, labels = features.captions["logits"], features.captions["labels"]
        return {"loss": sum(loss(features.image, features.text, logits, labels, features.logit_scale))}

    batch = some_pairs(ROWS)
    losses(writer(batch), batch)["loss"].backward()
    expected = gradients_of(writer)
    writer.zero_grad(set_to_none=True)
    cached_backward(writer, losses, batch, MICRO, model=writer)
    assert_same(gradients_of(writer), expected)


def resnet() -> Any:
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, head_width=16, image_size=PIXELS, patch_size=None)
    return build_model(tiny_cfg(vision_cfg=vision)).train()


def test_batch_statistics_are_refused_with_the_module_and_the_remedy() -> None:
    towers = TowersAndLoss(resnet(), ClipLoss())
    with pytest.raises(ConfigError, match=r"visual\.bn1 .* statistics of its batch.*freeze_bn_stats"):
        towers.cached(some_pairs(ROWS))
    assert not towers.sizes


def test_frozen_statistics_are_accepted() -> None:
    towers = TowersAndLoss(resnet(), ClipLoss())
    towers.model.visual.eval()
    assert_same(towers.cached(some_pairs(ROWS)), towers.whole(some_pairs(ROWS)))


def test_a_micro_batch_of_0_is_refused() -> None:
    towers = TowersAndLoss(small_model(), ClipLoss())
    with pytest.raises(ConfigError, match="micro_batch is 0"):
        cached_backward(towers.encode, towers.losses, some_pairs(ROWS), 0, model=towers.model)


def test_ranks_that_gather_have_the_gradients_of_one_process_and_average_them_once(tmp_path: Path) -> None:
    run_ranks(2, [Path(__file__).with_name("grad_cache_ranks.py"), tmp_path])
    towers = TowersAndLoss(small_model(), ClipLoss())
    expected = towers.whole(some_pairs(ROWS))
    for rank in range(2):
        got, reductions = torch.load(tmp_path / f"{rank}.pt")
        assert_same({name.removeprefix("module."): value for name, value in got.items()}, expected)
        assert reductions == 1
