"""Training objectives: losses from the features of a batch, on one or many processes.

The mean over ranks of a loss and of its gradients equals that of one process with the whole batch.

Shapes: B batch of this rank, D joint embedding, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from oneclip.config.training import TrainCfg
from oneclip.errors import ConfigError
from oneclip.losses import ClipLoss, DistillClipLoss, SigLipLoss
from oneclip.losses.false_negatives import masked_contrastive_loss
from oneclip.train.data.batches import Batch
from oneclip.train.distributed.world import World
from oneclip.train.forward import Features


class Objective(nn.Module):
    """Module that computes named fp32 scalars from features and a batch; "loss" is minimized, the rest is logged.

    Args:
        loss_fn: called with image features, text features, the exponentiated scale, and the bias if there is one.
    """

    def __init__(self, loss_fn: nn.Module) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    def forward(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of one batch."""
        return {"loss": self.contrast(features, batch)}

    def contrast(self, features: Features, batch: Batch) -> Tensor:
        """Compute the contrastive loss. Pairs with equal numbers in `batch.extra["same"]` are not negatives."""
        same, loss_fn = batch.extra.get("same"), self.loss_fn
        if same is not None and isinstance(loss_fn, ClipLoss | SigLipLoss):
            return masked_contrastive_loss(
                features.image,
                features.text,
                features.logit_scale,
                features.logit_bias,
                same,
                is_sigmoid=isinstance(loss_fn, SigLipLoss),
                rank=loss_fn.rank,
                world_size=loss_fn.world_size,
                tile_size=loss_fn.tile_size,
            )
        bias = {} if features.logit_bias is None else {"logit_bias": features.logit_bias}
        loss: Tensor = loss_fn(features.image, features.text, features.logit_scale, **bias)
        return loss


class CaptioningObjective(Objective):
    """Contrastive loss plus cross-entropy of the next caption token (Yu et al. 2022, equation 4).

    Args:
        loss_fn: contrastive loss.
        weight: weight of the captioning loss.
        pad_id: token that is not predicted.
        world: the mean is over the tokens of all its processes.
    """

    def __init__(self, loss_fn: nn.Module, weight: float, pad_id: int, world: World) -> None:
        super().__init__(loss_fn)
        self.weight, self.pad_id, self.world = weight, pad_id, world

    def forward(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of one batch."""
        contrast = self.contrast(features, batch)
        logits, labels = features.captions["logits"], features.captions["labels"]
        total = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=self.pad_id, reduction="sum")
        count = (labels != self.pad_id).sum()
        if not self.world.is_single:
            dist.all_reduce(count)
        caption = total * self.world.size / count.clamp(min=1)
        return {
            "loss": contrast + self.weight * caption,
            "contrast": contrast.detach(),
            "caption": caption.detach(),
        }


class DistillationObjective(Objective):
    """Contrastive loss plus the distance to the similarities of a teacher (Wu et al. 2023).

    Args:
        loss_fn: computes both.
        teach: returns the teacher's features and exponentiated scale for a batch, without gradients.
        weight: weight of the distance.
    """

    def __init__(self, loss_fn: DistillClipLoss, teach: Callable[[Batch], Features], weight: float) -> None:
        super().__init__(loss_fn)
        self.teach, self.weight = teach, weight

    def forward(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of one batch."""
        with torch.no_grad():
            teacher = self.teach(batch)
        contrast, distance = self.loss_fn(
            features.image,
            features.text,
            features.logit_scale,
            teacher.image,
            teacher.text,
            teacher.logit_scale,
        )
        if "same" in batch.extra:
            contrast = self.contrast(features, batch)
        return {
            "loss": contrast + self.weight * distance,
            "contrast": contrast.detach(),
            "distance": distance.detach(),
        }


def make_objective(
    cfg: TrainCfg,
    model: nn.Module,
    world: World,
    *,
    pad_id: int = 0,
    teach: Callable[[Batch], Features] | None = None,
    loss_fn: nn.Module | None = None,
) -> Objective:
    """Make the objective of the settings: softmax or sigmoid, with captions for a CoCa, or with a teacher.

    Args:
        cfg: the settings.
        model: the model to train.
        world: the processes that train together.
        pad_id: token id after the end of a text.
        teach: returns the features of a teacher for a batch.
        loss_fn: contrastive loss to use instead of `cfg.loss`.

    Raises:
        ConfigError: if the loss does not fit the model or the teacher.
    """
    place: dict[str, Any] = {"rank": world.rank, "world_size": world.size}
    if teach is not None:
        if cfg.loss != "softmax":
            raise ConfigError(f"a teacher needs loss=softmax; found loss={cfg.loss}")
        if hasattr(model, "text_decoder"):
            raise ConfigError(
                "a teacher needs a model with two towers only; found one with a captioning decoder"
            )
        return DistillationObjective(
            DistillClipLoss(cfg.local_loss, True, **place), teach, cfg.teacher_weight
        )
    place["tile_size"] = cfg.tile_size
    if loss_fn is not None:
        pass
    elif cfg.loss == "sigmoid":
        if getattr(model, "logit_bias", None) is None:
            raise ConfigError(
                "loss=sigmoid needs a model with a logit bias, but this model has none: set init_logit_bias (-10 in "
                "Zhai et al. 2023) in its configuration, or use loss=softmax"
            )
        loss_fn = SigLipLoss(**place, dist_impl=cfg.sigmoid_dist_impl)
    else:
        loss_fn = ClipLoss(cfg.local_loss, True, **place)
    if hasattr(model, "text_decoder"):
        return CaptioningObjective(loss_fn, cfg.caption_weight, pad_id, world)
    return Objective(loss_fn)
