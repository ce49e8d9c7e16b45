"""Linear probes with CLIP_benchmark's schedule on generated embeddings; both sides of a comparison run this file."""

from __future__ import annotations

import tempfile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIM, SEED, BATCH, EPOCHS, LEARNING_RATE = 12, 3, 16, 3, 0.1
IMAGES = {"train": 120, "val": 60, "test": 150}


class Case(NamedTuple):
    """What is trained."""

    classes: int
    has_validation: bool
    shots: int = -1


CASES = {
    "train": Case(8, has_validation=False),
    "train and val": Case(8, has_validation=True),
    "shots": Case(8, has_validation=True, shots=4),
    "five classes": Case(5, has_validation=False),
}


class Identity(nn.Module):
    """Model whose image features are the images."""

    def encode_image(self, images: Tensor) -> Tensor:
        return images


def embeddings(case: Case, split: str) -> tuple[Tensor, Tensor]:
    """Return features around a centre of each class, and labels."""
    generator = torch.Generator().manual_seed(list(IMAGES).index(split))
    centres = torch.randn(case.classes, DIM, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(case.classes, (IMAGES[split],), generator=generator)
    return centres[labels] + 2 * torch.randn(len(labels), DIM, generator=generator), labels


def of_clip_benchmark() -> dict[str, dict[str, float]]:
    """Return the metrics of CLIP_benchmark's linear probe, made to run on a CPU."""
    from clip_benchmark.metrics import linear_probe

    for kind in (Tensor, nn.Module):
        kind.cuda = lambda self: self  # type: ignore[assignment,method-assign]
    found = {}
    for name, case in CASES.items():
        loaders = {
            split: list(zip(*(p.split(50) for p in embeddings(case, split)), strict=True)) for split in IMAGES
        }
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(SEED)
            metrics = linear_probe.evaluate(
                Identity(),
                loaders["train"],
                loaders["test"],
                case.shots,
                BATCH,
                0,
                LEARNING_RATE,
                EPOCHS,
                "identity",
                SEED,
                folder,
                CPU("cpu"),
                val_dataloader=loaders["val"] if case.has_validation else None,
                amp=False,
            )
        found[name] = {key: float(value) for key, value in metrics.items()}
    return found


class CPU(str):
    """Name of the CPU that the package takes for that of a GPU."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return other == "cuda" or super().__eq__(other)


def of_oneclip() -> dict[str, dict[str, Any]]:
    """Return our metrics, and the weight decay that was chosen."""
    from oneclip.embed.items import Item
    from oneclip.evaluate.data import EvaluationDataset, Sample
    from oneclip.evaluate.encoded import EncodedSplit
    from oneclip.evaluate.linear_probe import CompatSchedule, score_linear_probe

    found = {}
    for name, case in CASES.items():
        splits = {}
        for split in IMAGES if case.has_validation else ("train", "test"):
            rows, labels = embeddings(case, split)
            samples = [Sample(Item(f"{i}.png", bytes), label) for i, label in enumerate(labels.tolist())]
            splits[split] = EncodedSplit(F.normalize(rows, dim=-1).numpy(), samples)
        dataset = EvaluationDataset("generated", "classes", {}, [f"class {i}" for i in range(case.classes)])
        schedule = CompatSchedule(case.shots, LEARNING_RATE, EPOCHS, BATCH)
        score = score_linear_probe(dataset, splits, seed=SEED, compat=schedule)
        found[name] = {**score.metrics, "weight_decay": score.details["weight_decay"]}
    return found
