"""Compare an exported model with the model in torch: `parity.json` and `parity.md`.

Shapes: N inputs, D joint embedding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oneclip.encoder import Encoder
from oneclip.runtime import ExportedModel, RuntimeEncoder

BATCHES = (1, 2, 7)
SHAPES = (
    (64, 48),
    (48, 64),
    (500, 20),
    (20, 500),
    (224, 224),
    (640, 427),
    (1, 1),
)  # width and height in pixels
MODES = ("RGB", "L", "RGBA", "P", "CMYK", "1", "LA", "I;16")
TEXTS = (
    "a",
    "a photo of a cat",
    "two dogs run through a green field behind a red house",
    "รูปภาพของแมว",
    "une photo d'un chat noir sur un canapé",
    "12345 !? #hashtag",
    "a very long description of a picture " * 20,
)


def compare(
    encoder: Encoder, folder: Path, precisions: Sequence[str], check: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Compare every exported precision with the model in torch.

    Args:
        encoder: the model in torch.
        folder: the exported folder.
        precisions: to compare.
        check: data of `oneclip.evaluate.open_dataset`; None for generated inputs alone.

    Returns:
        For each precision the worst and median cosine and the greatest relative error of images and of texts, in
        `precisions`; `drop`, the greatest `1 - median cosine` of all, and `reason`, where it was found.
    """
    images, texts = generated_images(), list(TEXTS)
    expected = encoder.encode_images(images), encoder.encode_texts(texts, overflow="truncate")
    report: dict[str, Any] = {"model": encoder.name, "precisions": {}, "drop": 0.0, "reason": ""}
    exported = ExportedModel.open(folder)
    for precision in precisions:
        runtime = RuntimeEncoder(exported, precision=precision)
        found: dict[str, Any] = {}
        for side, reference in zip(("images", "texts"), expected, strict=True):
            inputs = images if side == "images" else texts
            worst = [_encode(runtime, side, inputs, size) for size in BATCHES]
            found[side] = compare_embeddings(reference, np.concatenate(worst), len(BATCHES))
            drop = 1 - found[side]["median_cosine"]
            if drop > report["drop"]:
                report["drop"], report["reason"] = drop, f"{side} in {precision}"
        report["precisions"][precision] = found
    return report


def compare_embeddings(
    expected: NDArray[np.float32], found: NDArray[np.float32], repeats: int = 1
) -> dict[str, float]:
    """Compare embeddings (N, D) of unit length with others of the same inputs, several times over (repeats N, D)."""
    reference = np.tile(expected, (repeats, 1)).astype(np.float64)
    cosines = (reference * found).sum(1)
    errors = np.linalg.norm(found - reference, axis=1)
    return {
        "inputs": len(expected),
        "worst_cosine": float(cosines.min()),
        "median_cosine": float(np.median(cosines)),
        "greatest_relative_error": float(errors.max()),
    }


def write_parity(report: dict[str, Any], folder: Path) -> None:
    """Write `parity.json` and `parity.md`."""
    (folder / "parity.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"# {report['model']}: the exported model against the model in torch",
        "",
        "| precision | inputs | worst cosine | median cosine | greatest relative error |",
        "|---|---|---|---|---|",
    ]
    for precision, sides in report["precisions"].items():
        for side, one in sides.items():
            lines.append(
                f"| {precision} | {one['inputs']} {side} | {one['worst_cosine']:.7f} | {one['median_cosine']:.7f} | "
                f"{one['greatest_relative_error']:.1e} |"
            )
    (folder / "parity.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def generated_images(seed: int = 0) -> list[Image.Image]:
    """Generate an image of every shape in RGB, and of every mode in one shape."""
    random = np.random.default_rng(seed)
    images = []
    for width, height in SHAPES:
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        images.append(coarse.resize((width, height), Image.Resampling.BICUBIC))
    for mode in MODES:
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize((96, 80))
        images.append(
            coarse.convert("L").convert("I").convert(mode) if mode == "I;16" else coarse.convert(mode)
        )
    return images


def _encode(runtime: RuntimeEncoder, side: str, inputs: list[Any], batch_size: int) -> NDArray[np.float32]:
    if side == "images":
        return runtime.encode_images(inputs, batch_size=batch_size)
    return runtime.encode_texts(inputs, batch_size=batch_size, overflow="truncate")
