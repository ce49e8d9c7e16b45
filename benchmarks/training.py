"""How many pairs per second does a training step process, and are the losses the same?

    python benchmarks/training.py [--architecture ViT-B-32] [--batch 64] [--tokens 12] [--rounds 3] [--compile]

A step is forward, loss, backward and AdamW on the same random weights and the same pairs: ours with `Trainer.fit`,
open_clip_train with its own `train_one_epoch`. Captions have `--tokens` tokens each, including start and end. Pairs are
in memory, so only steps are measured. The final loss shows whether both compute the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from contest import given
from contest.arena import contest, machine, ours, published, serve

LR = 1e-4
DECAY = 0.2


def of_ours(folder: Path) -> dict[str, Callable[[], Any]]:
    """Run `Trainer` in fp32, and under autocast to bf16."""
    ours()
    import oneclip
    from oneclip.train import Batch, Prepare, TrainCfg, Trainer

    options, images, texts = _given(folder)
    tasks: dict[str, Callable[[], Any]] = {}
    for precision in ("fp32", "bf16"):
        for is_compiled in (False, True)[: 1 + options["compile"]]:
            settings: dict[str, Any] = {"compile": True} if is_compiled else {}
            cfg = TrainCfg(
                steps=10**6, lr=LR, schedule="constant", weight_decay=DECAY, max_grad_norm=None, log_every=10**6,
                precision=precision, **settings,
            )  # fmt: skip
            trainer = Trainer(
                oneclip.load(folder / "model", device="cpu").model,
                SimpleNamespace(batch=lambda step: Batch(images, texts)),
                cfg,
                prepare=Prepare(crop_texts=True),
            )
            tasks[_name(precision, is_compiled)] = partial(_ours, trainer, options["steps"])
    return tasks


def _ours(trainer: Any, steps: int) -> float:
    seen: list[float] = []
    step = trainer.stepper.training_step

    def watched(batch: Any) -> Any:
        losses = step(batch)
        seen.append(float(losses["loss"].detach()))
        return losses

    trainer.stepper.training_step = watched
    try:
        trainer.fit(trainer.step + steps)
    finally:
        trainer.stepper.training_step = step
    return seen[-1]


def of_open_clip_train(folder: Path) -> dict[str, Callable[[], Any]]:
    """Run the published loop in fp32, under autocast to bf16, and in `pure_bf16`."""
    published()
    from open_clip_train.params import parse_args

    import open_clip

    options, images, texts = _given(folder)
    tasks: dict[str, Callable[[], Any]] = {}
    for precision in ("fp32", "amp_bf16", "pure_bf16"):
        for is_compiled in (False, True)[: 1 + options["compile"]]:
            args = parse_args(["--precision", precision, "--batch-size", str(len(images)), "--lr", str(LR)])
            args.device, args.distill, args.rank, args.local_rank, args.world_size = "cpu", False, 0, 0, 1
            args.distributed, args.horovod, args.log_every_n_steps = False, False, 1
            args.skip_scheduler, args.wandb = True, False
            model = open_clip.create_model(
                f"local-dir:{folder / 'model'}", precision=precision, output_dict=True
            )
            optimizer = torch.optim.AdamW(_groups(model), lr=LR, betas=(0.9, 0.98), eps=1e-6)
            model = torch.compile(model) if is_compiled else model
            data = _Data([(images, texts)] * options["steps"])
            loss = open_clip.create_loss(args)
            tasks[_name(precision, is_compiled)] = partial(_theirs, model, data, loss, optimizer, args)
    return tasks


def _theirs(model: Any, data: Any, loss: Any, optimizer: Any, args: Any) -> float:
    from open_clip_train.train import train_one_epoch

    seen: list[float] = []

    def add_scalar(name: str, value: float, step: int) -> None:
        if name == "train/loss":
            seen.append(float(value))

    writer = SimpleNamespace(add_scalar=add_scalar)
    train_one_epoch(model, {"train": data}, loss, 0, optimizer, None, None, None, args, tb_writer=writer)
    return seen[-1]


def _groups(model: Any) -> list[dict[str, Any]]:
    """Make the arguments as the published main program does."""
    plain, decayed = [], []
    for name, parameter in model.named_parameters():
        is_plain = parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
        (plain if is_plain else decayed).append(parameter)
    return [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": DECAY}]


class _Data:
    """Batches in memory, with the interface of the published loop."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.num_batches = batches, len(batches)
        self.num_samples = sum(len(images) for images, _ in batches)
        self.dataloader = self

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order never changes."""


def _given(folder: Path) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    images, texts = torch.load(folder / "pairs.pt")
    return json.loads((folder / "options.json").read_text(encoding="utf-8")), images, texts


def _name(precision: str, is_compiled: bool) -> str:
    return precision + (", compiled" if is_compiled else "")


ENTRANTS = {"oneclip": of_ours, "open_clip_train": of_open_clip_train}


def pairs(architecture: str, count: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Make pixels (count, 3, H, W), and ids (count, 77) of captions with this many tokens."""
    from oneclip import zoo

    cfg = zoo.architecture(architecture).text_cfg
    ids = torch.zeros(count, cfg.context_length, dtype=torch.long)
    words = torch.randint(
        1, cfg.vocab_size - 2, (count, tokens - 2), generator=torch.Generator().manual_seed(1)
    )
    ids[:, 0], ids[:, 1 : tokens - 1], ids[:, tokens - 1] = cfg.vocab_size - 2, words, cfg.vocab_size - 1
    return given.pixels(architecture, count), ids


def main() -> None:
    serve(ENTRANTS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--steps", type=int, default=2, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="both sides also with torch.compile")
    options = parser.parse_args()
    ours()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given.write_model(folder, options.architecture)
        torch.save(pairs(options.architecture, options.batch, options.tokens), folder / "pairs.pt")
        (folder / "options.json").write_text(json.dumps(vars(options)), encoding="utf-8")
        results = contest(ENTRANTS, folder, options.rounds)
    given.say(
        f"{options.architecture}, batches of {options.batch} pairs, captions of {options.tokens} tokens; "
        f"{options.rounds} rounds of {options.steps} steps"
    )
    given.say(machine())
    given.say()
    count = options.batch * options.steps
    fastest = min(
        (key for key in results.seconds if key[0] == "open_clip_train"), key=lambda key: results.median(*key)
    )
    given.say(f"{'':34} {'pairs a second':>15} {'x its best':>11} {'loss in the end':>16}")
    for key in results.seconds:
        given.say(
            f"{' '.join(key):34} {count / results.median(*key):>15.1f} {results.ratio(key, fastest):>11.2f} "
            f"{results.outputs[key]:>16.5f}"
        )


if __name__ == "__main__":
    main()
