"""Trainings of tiny models, in one process or as one rank of several, for the tests of many processes.

python tests/train/together.py FOLDER CASE...        under torchrun's environment
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg
from oneclip.model import build_model
from oneclip.train import Batch, Prepare, TrainCfg, Trainer, World, init_distributed, make_objective
from oneclip.train.forward import TrainingForward
from oneclip.train.reporting.step_stats import StepMeter
from tests.ranks import leave

GLOBAL = 8  # pairs of a batch, over all ranks
TOKENS = 12
VISION = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
TEXT = {"context_length": TOKENS, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}


@dataclass(frozen=True)
class Case:
    """Model and trainer settings of a case."""

    model: str = "clip"  # "sigmoid", "coca" or "distilled"
    settings: dict[str, Any] = field(default_factory=dict)
    is_basic: bool = False  # tried with the most processes, too


CASES = {
    "softmax, local": Case(is_basic=True),
    "softmax, all": Case(settings={"local_loss": False}, is_basic=True),
    **{
        f"sigmoid, {impl}": Case(
            "sigmoid", {"loss": "sigmoid", "sigmoid_dist_impl": impl}, is_basic=impl in ("bidir", "shift")
        )
        for impl in ("bidir", "shift", "reduce", "gather")
    },
    "CoCa": Case("coca"),
    "distillation": Case("distilled"),
    "softmax, sharded": Case(settings={"strategy": "fsdp"}, is_basic=True),
    "sigmoid, sharded": Case("sigmoid", {"loss": "sigmoid", "strategy": "fsdp"}),
    "CoCa, sharded": Case("coca", {"strategy": "fsdp"}),
    "softmax, in tiles": Case(settings={"tile_size": 3}),
    "sigmoid, in tiles": Case("sigmoid", {"loss": "sigmoid", "tile_size": 3}),
    "in micro-batches": Case(settings={"micro_batch": 1}),
    "CoCa, in micro-batches": Case("coca", {"micro_batch": 1}),
    "accumulated micro-batches, sharded": Case(
        settings={"micro_batch": 1, "grad_accum_steps": 2, "strategy": "fsdp", "tile_size": 4}
    ),
    "averaged, sharded": Case(settings={"ema_decay": 0.9, "strategy": "fsdp"}),
    "accumulated": Case(settings={"grad_accum_steps": 2}),
    "layer decay, sharded": Case(settings={"layer_decay": 0.5, "strategy": "fsdp"}),
    "accumulated, sharded": Case(settings={"grad_accum_steps": 2, "strategy": "fsdp"}),
}


class Share:
    """A rank's rows of batches that are the same on any number of ranks."""

    def __init__(self, world: World) -> None:
        self.world = world

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(GLOBAL, 3, 16, 16, generator=generator)
        texts = torch.randint(1, 62, (GLOBAL, TOKENS), generator=generator)
        lengths = torch.randint(3, TOKENS + 1, (GLOBAL, 1), generator=generator)
        places = torch.arange(TOKENS)
        texts = torch.where(places < lengths - 1, texts, torch.where(places == lengths - 1, 63, 0))
        size = GLOBAL // self.world.size
        mine = slice(self.world.rank * size, (self.world.rank + 1) * size)
        return Batch(images[mine], texts[mine])


def make_trainer(case: Case, world: World, out: Path | None = None, **settings: Any) -> Trainer:
    """A trainer of the case's model, from the same weights each time."""
    torch.manual_seed(0)
    model = tiny_model(case.model)
    teach = None
    if case.model == "distilled":
        teacher = TrainingForward(tiny_model("clip", width=48)).eval()
        teach = partial(_teach, teacher)
    cfg = TrainCfg(**{"steps": 100, "lr": 1e-3, "max_grad_norm": None, **case.settings, **settings})
    objective = make_objective(cfg, model, world, teach=teach)
    prepare = Prepare(crop_texts=case.model != "coca")
    return Trainer(model, Share(world), cfg, world=world, objective=objective, prepare=prepare, out=out)


def _teach(teacher: nn.Module, batch: Batch) -> Any:
    return teacher(batch.images, batch.texts)


def tiny_model(kind: str, width: int = 32) -> Any:
    text, vision = CLIPTextCfg.from_dict({**TEXT, "width": width}), CLIPVisionCfg.from_dict(VISION)
    if kind == "coca":
        vision = CLIPVisionCfg.from_dict(
            {
                **VISION,
                "attentional_pool": True,
                "attn_pooler_heads": 2,
                "attn_pooler_queries": 5,
                "output_tokens": True,
            }
        )
        text = CLIPTextCfg.from_dict({**TEXT, "embed_cls": True, "output_tokens": True})
        decoder = MultimodalCfg.from_dict({**TEXT, "context_length": TOKENS - 1, "attn_pooler_heads": 2})
        return build_model(ModelCfg(32, vision, text, custom_text=True, multimodal_cfg=decoder))
    bias = -10.0 if kind == "sigmoid" else None
    return build_model(ModelCfg(32, vision, text, custom_text=kind == "sigmoid", init_logit_bias=bias))


def observe(case: Case, world: World) -> dict[str, Any]:
    """Losses and gradients of a first step, weights after three steps of SGD, losses of four of AdamW."""
    trainer = make_trainer(case, world)
    with trainer._batches(100) as batches:
        first = StepMeter(0, 100, world)
        trainer.stepper.optimizer = sgd(trainer, 0.0)
        trainer.stepper.optimizer_step(batches, first)
        gradients = {
            name: whole(p.grad) for name, p in trainer.model.named_parameters() if p.grad is not None
        }
        losses = dict(first.report(1, 1.0).losses)
    trainer = make_trainer(case, world, lr=0.1, schedule="constant")
    trainer.stepper.optimizer = sgd(trainer, 0.1)
    trainer.fit(3)
    weights = {name: whole(tensor) for name, tensor in trainer.model.state_dict().items()}
    trainer = make_trainer(case, world, log_every=1, schedule="constant")
    seen: list[float] = []
    trainer.metrics.write = lambda line: seen.append(line["loss"]) if "loss" in line else None
    trainer.fit(4)
    return {"losses": losses, "gradients": gradients, "weights": weights, "adamw": seen}


def sgd(trainer: Trainer, lr: float) -> torch.optim.SGD:
    """Without momentum, so that a difference of gradients is not made larger."""
    return torch.optim.SGD(
        [{"params": group["params"]} for group in trainer.stepper.optimizer.param_groups], lr=lr
    )


def whole(tensor: Any) -> Tensor:
    """A copy of a tensor, put together from its shards."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def main(folder: str, *names: str) -> None:
    world, _ = init_distributed("cpu")
    seen = {name: observe(CASES[name], world) for name in names or CASES}
    if world.is_rank_zero:
        torch.save(seen, Path(folder) / "seen.pt")
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
