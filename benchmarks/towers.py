"""How many images and texts per second do all packages encode, by precision, and how far are they from fp32?

    python benchmarks/towers.py [--architecture ViT-B-32] [--batch 32] [--captions 128] [--rounds 3] [--only images]

Images are preprocessed tensors. Texts have 5 to 15 words, and each package uses its own tokenizer; ours keeps their
order. All use the same random weights. The distance is the worst cosine to the plain module in fp32. The limit of a
precision is the best rate of `torch.matmul` and of packed linear layers over a few large shapes in the same rounds; the
share of it that images reach is shown too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from contest import entrants, given
from contest.arena import Results, contest, machine, ours, serve

SHAPES = ((1600, 768, 3072), (1600, 3072, 768), (2048, 2048, 2048))  # rows, inputs, outputs
MATMUL, PACKED = "matmul", "packed"


def of_limits(folder: Path) -> dict[str, Callable[[], Any]]:
    """Run only large matrix products."""
    ours()
    from oneclip.engine.precision import kernels_for

    tasks: dict[str, Callable[[], Any]] = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("int8", torch.float32)):
        for shape in SHAPES:
            rows, inputs, outputs = shape
            x, weight = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
            linear = kernels_for(precision).pack(weight, None)
            name = f"limit, {precision}, {'x'.join(map(str, shape))}"
            tasks[f"{name}, {PACKED}"] = lambda x=x, linear=linear: _nothing(linear, x)
            if precision != "int8":
                tasks[f"{name}, {MATMUL}"] = lambda x=x, weight=weight: _nothing(torch.matmul, x, weight.T)
    return tasks


def _nothing(compute: Callable[..., Any], *arguments: Any) -> None:
    with torch.inference_mode():
        compute(*arguments)


ENTRANTS = {
    "oneclip": entrants.of_ours,
    "open_clip_torch": entrants.of_open_clip,
    "transformers": entrants.of_transformers,
    "OpenAI's clip": entrants.of_openai,
    "ONNX Runtime": entrants.of_onnx_runtime,
    "OpenVINO": entrants.of_openvino,
    "limits": of_limits,
}


def limit(results: Results, precision: str) -> float:
    """Return the best rate of all shapes and methods, in operations per second."""
    rates = []
    for entrant, task in results.seconds:
        if entrant == "limits" and task.startswith(f"limit, {precision}, "):
            rows, inputs, outputs = map(int, task.split(", ")[2].split("x"))
            rates.append(2 * rows * inputs * outputs / min(results.seconds[entrant, task]))
    return max(rates)


def operations(architecture: str) -> float:
    """Count the operations for one image in a ViT whose last block computes only the pooled token."""
    from oneclip import zoo

    cfg = zoo.architecture(architecture)
    vision = cfg.vision_cfg
    assert isinstance(vision.image_size, int)
    assert isinstance(vision.patch_size, int)
    assert isinstance(vision.layers, int)
    width, patches = vision.width, (vision.image_size // vision.patch_size) ** 2
    tokens = patches + 1
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    last = 2 * tokens * 2 * width**2 + 2 * 10 * width**2 + 4 * tokens * width
    cut = 2 * patches * 3 * vision.patch_size**2 * width
    return (vision.layers - 1) * block + last + cut + 2 * width * cfg.embed_dim


def report(results: Results, side: str, count: int) -> None:
    """Print a line for each package and precision."""
    ways = [key for key in results.seconds if key[1].startswith(side) and not key[1].endswith("reference")]
    base, low = ("open_clip_torch", f"{side}, fp32"), ("open_clip_torch", f"{side}, pure_bf16")
    reference = results.outputs["oneclip", f"{side}, reference"]
    given.say(f"{side:33} {'a second':>9} {'x fp32':>7} {'x pure_bf16':>12} {'worst cosine':>13}")
    for way in ways:
        cosine = f"{worst_cosine(results.outputs[way], reference):.7f}"
        if way[0] == "OpenAI's clip":
            cosine = "QuickGELU"  # it supports only QuickGELU, so its features differ
        precision = way[1].removeprefix(f"{side}, ")
        given.say(
            f"  {way[0] + ', ' + precision:31} {count / results.median(*way):>9.1f} {results.ratio(way, base):>7.2f} "
            f"{results.ratio(way, low):>12.2f} {cosine:>13}"
        )


def worst_cosine(features: Any, reference: Any) -> float:
    """Return the smallest cosine over rows."""
    rows = [
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (features.astype(float), reference.astype(float))
    ]
    return float((rows[0] * rows[1]).sum(axis=1).min())


def main() -> None:
    serve(ENTRANTS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--captions", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="tasks with this in their name, and the limits"
    )
    parser.add_argument("--against", nargs="*", help="entrants beside oneclip and the limits; all without it")
    options = parser.parse_args()
    ours()
    chosen = {
        name: entrant
        for name, entrant in ENTRANTS.items()
        if options.against is None or name in ("oneclip", "open_clip_torch", "limits", *options.against)
    }
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given.write_model(folder, options.architecture, onnx_batch=options.batch)
        torch.save(given.pixels(options.architecture, options.batch), folder / "pixels.pt")
        (folder / "captions.txt").write_text("\n".join(given.captions(options.captions)), encoding="utf-8")

        def wanted(task: str) -> bool:
            return options.only in task or "limit" in task

        results = contest(chosen, folder, options.rounds, wanted, warm_up=False, settle=True)
    given.say(
        f"{options.architecture}, batches of {options.batch}, captions of 5 to 15 words; {options.rounds} rounds"
    )
    given.say(machine())
    for side, count in (("images", options.batch), ("captions", options.captions)):
        if side in options.only or not options.only:
            given.say()
            report(results, side, count)
    given.say()
    for precision in ("fp32", "bf16", "int8"):
        top = limit(results, precision)
        share = ""
        if ("oneclip", f"images, {precision}") in results.seconds:
            taken = operations(options.architecture) * options.batch
            share = (
                f"; images take {taken / results.median('oneclip', f'images, {precision}') / top:.2f} of it"
            )
        given.say(f"limit, {precision}: {top / 1e9:,.0f} GFLOP/s{share}")


if __name__ == "__main__":
    main()
