"""Compare an exported model with the model in torch: `parity.json` and `parity.md`.

Shapes: N inputs, M texts, D joint embedding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oneclip.encoder import Encoder
from oneclip.encoding import BaseEncoder, Features
from oneclip.export.parity_inputs import TEXTS, HeldOutPairs, generated_images, heldout_pairs
from oneclip.runtime import ExportedModel, RuntimeEncoder

BATCHES = (1, 2, 7)
EXACT = "fp32"


@dataclass
class Reference:
    """Embeddings of all inputs by the model in torch.

    Attributes:
        encoder: the model.
        check: data to compare on; None for pocket's sample.
    """

    encoder: Encoder
    check: str | os.PathLike[str] | None = None
    inputs: dict[str, list[Any]] = field(init=False)
    expected: dict[str, Features] = field(init=False)
    pairs: list[HeldOutPairs] = field(init=False)
    heldout: list[tuple[Features, Features]] = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = {"images": generated_images(), "texts": list(TEXTS)}
        self.expected = {side: encode(self.encoder, side, inputs) for side, inputs in self.inputs.items()}
        self.pairs = heldout_pairs(self.check)
        self.heldout = [encode_pairs(self.encoder, one) for one in self.pairs]


def compare(reference: Reference, folder: Path, precisions: Sequence[str]) -> dict[str, Any]:
    """Compare every exported precision with the model in torch.

    Args:
        reference: embeddings of the model in torch.
        folder: the exported folder.
        precisions: to compare.

    Returns:
        `precisions`: for each one what `compare_precision` returns; `drop`, the greatest of all differences, and
        `reason`, what differs. In fp32 the difference is 1 - the worst cosine, because every input must be equal; in
        other precisions, 1 - the median cosine of a batch size. A fall of recall by more than one image counts, too.
    """
    exported = ExportedModel.open(folder)
    report: dict[str, Any] = {"model": reference.encoder.name, "drop": 0.0, "reason": "", "precisions": {}}
    for precision in precisions:
        runtime = RuntimeEncoder(exported, precision=precision)
        found = compare_precision(reference, runtime)
        report["precisions"][precision] = found
        for drop, reason in drops(found, precision):
            if not drop <= report["drop"]:
                report["drop"], report["reason"] = drop, reason
    return report


def compare_precision(reference: Reference, runtime: RuntimeEncoder) -> dict[str, Any]:
    """Compare one precision with the model in torch.

    Returns:
        `images` and `texts`, see `compare_embeddings`, with the median cosine for each batch size and for the held-out
        inputs; `top1_agreement`, the share of held-out images whose most similar text is the same; and `recall`, for
        each style of the held-out images.
    """
    found: dict[str, Any] = {}
    pairs = [encode_pairs(runtime, one) for one in reference.pairs]
    for place, (side, inputs) in enumerate(reference.inputs.items()):
        parts = {
            f"batches of {size}": (reference.expected[side], encode(runtime, side, inputs, size))
            for size in BATCHES
        }
        if pairs:
            parts["held out"] = (
                np.concatenate([one[place] for one in reference.heldout]),
                np.concatenate([one[place] for one in pairs]),
            )
        found[side] = compare_embeddings(parts)
    if pairs:
        agreed = [
            top1(*expected) == top1(*actual)
            for expected, actual in zip(reference.heldout, pairs, strict=True)
        ]
        found["top1_agreement"] = float(np.concatenate(agreed).mean())
        found["recall"] = {
            one.name: {
                "images": len(one.images),
                "torch": recall(one, *expected),
                "exported": recall(one, *actual),
            }
            for one, expected, actual in zip(reference.pairs, reference.heldout, pairs, strict=True)
        }
    return found


def compare_embeddings(parts: Mapping[str, tuple[Features, Features]]) -> dict[str, Any]:
    """Compare embeddings (N, D) of unit length with others of the same inputs.

    Args:
        parts: expected and found embeddings, by name.

    Returns:
        Number of `inputs`, `worst_cosine`, `median_cosine`, and `relative_error`, the greatest length of a difference,
        of all parts; and the median cosine of each in `medians`.
    """
    expected = np.concatenate([one for one, _ in parts.values()]).astype(np.float64)
    found = np.concatenate([one for _, one in parts.values()]).astype(np.float64)
    cosines = (expected * found).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    ends = np.cumsum([len(one) for one, _ in parts.values()])[:-1]
    return {
        "inputs": len(expected),
        "worst_cosine": float(cosines.min()),
        "median_cosine": float(np.median(cosines)),
        "relative_error": float(np.linalg.norm(found - expected, axis=1).max()),
        "medians": {
            name: float(np.median(one)) for name, one in zip(parts, np.split(cosines, ends), strict=True)
        },
    }


def drops(found: Mapping[str, Any], precision: str) -> list[tuple[float, str]]:
    """Return the differences of one precision, and what differs, see `compare`."""
    result = []
    for side in ("images", "texts"):
        if precision == EXACT:
            result.append((1 - found[side]["worst_cosine"], f"the worst of the {side} in {precision}"))
        else:
            for name, median in found[side]["medians"].items():
                result.append((1 - median, f"the median of the {side} ({name}) in {precision}"))
    for name, one in found.get("recall", {}).items():
        fall = one["torch"] - one["exported"]
        if fall * one["images"] > 1.5:
            result.append((fall, f"recall on {name} in {precision}"))
    return result


def encode(encoder: BaseEncoder, side: str, inputs: list[Any], batch_size: int = 32) -> Features:
    """Encode images or texts; long texts are cut."""
    if side == "images":
        return encoder.encode_images(inputs, batch_size=batch_size)
    return encoder.encode_texts(inputs, batch_size=batch_size, overflow="truncate")


def encode_pairs(encoder: BaseEncoder, pairs: HeldOutPairs) -> tuple[Features, Features]:
    """Return the embeddings of the images and of the texts."""
    return encode(encoder, "images", list(pairs.images)), encode(encoder, "texts", list(pairs.texts))


def top1(images: Features, texts: Features) -> NDArray[np.int64]:
    """Return the index of the most similar text of each image."""
    return np.asarray((images @ texts.T).argmax(1), np.int64)


def recall(pairs: HeldOutPairs, images: Features, texts: Features) -> float:
    """Return the share of images whose most similar text is one of theirs."""
    hits = [best in right for best, right in zip(top1(images, texts).tolist(), pairs.right, strict=True)]
    return float(np.mean(hits))


def write_parity(report: Mapping[str, Any], folder: Path) -> None:
    """Write `parity.json` and `parity.md`."""
    (folder / "parity.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"# {report['model']}: the exported model against the model in torch",
        "",
        "Generated images of every shape and mode, in batches of 1, 2 and 7, and held-out images; texts from the "
        "shortest to the longest.",
        "",
        "| precision | compared | worst cosine | median cosine | greatest relative error |",
        "|---|---|---|---|---|",
    ]
    for precision, found in report["precisions"].items():
        for side in ("images", "texts"):
            one = found[side]
            lines.append(
                f"| {precision} | {one['inputs']} {side} | {one['worst_cosine']:.7f} | {one['median_cosine']:.7f} | "
                f"{one['relative_error']:.1e} |"
            )
    if any("recall" in found for found in report["precisions"].values()):
        lines += [
            "",
            "Recall is the share of held-out images whose most similar text is the right one.",
            "",
            "| precision | images | recall in torch | recall of the export | same most similar text, all images |",
            "|---|---|---|---|---|",
        ]
    for precision, found in report["precisions"].items():
        for name, one in found.get("recall", {}).items():
            lines.append(
                f"| {precision} | {one['images']} of {name} | {one['torch']:.3f} | {one['exported']:.3f} | "
                f"{found['top1_agreement']:.3f} |"
            )
    (folder / "parity.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
