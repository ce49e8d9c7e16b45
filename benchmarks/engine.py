"""How much sooner are pictures and captions encoded than by open_clip_torch 3.3.0, and how far from fp32?

    python benchmarks/engine.py [--packages FOLDER] [--architecture ViT-B-32] [--batch 32] [--tokens 13] [--rounds 7]

Tensors in, tensors out: the towers alone, on the CPU, with the same random weights and the same inputs everywhere.
open_clip_torch runs in a process of its own, in fp32 and in `pure_bf16`; ours in the plain module and in each plan. All
take turns in every round, so that a busy machine is busy for all. Beside the speed stands the worst cosine to the plain
module in fp32, and the share of the arithmetic limit: the best of `torch.matmul` and the packed linear layers over
three large shapes in the same rounds.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ((1600, 768, 3072), (1600, 3072, 768), (2048, 2048, 2048))
PUBLISHED = ("fp32", "pure_bf16")


def timed(compute: Callable[..., Tensor], *arguments: Tensor) -> tuple[float, Tensor]:
    """Seconds, and what was computed."""
    start = time.perf_counter()
    with torch.inference_mode():
        features = compute(*arguments)
    return time.perf_counter() - start, features.float().clone()


def contend(packages: str) -> None:
    """Answer (precision, side) on stdin with (seconds, features) on stdout, as open_clip_torch."""
    sys.path[:0] = [packages, str(ROOT / "tests")]
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    from torchvision_stub import declare_operators

    declare_operators()
    import open_clip

    architecture, weights, pixels, ids = pickle.load(sys.stdin.buffer)
    models = {p: open_clip.create_model(architecture, str(weights), precision=p).eval() for p in PUBLISHED}
    while (asked := pickle.load(sys.stdin.buffer)) is not None:
        model = models[asked[0]]
        if asked[1] == "captions":
            answer = timed(model.encode_text, ids)
        else:
            answer = timed(model.encode_image, pixels.bfloat16() if asked[0] == "pure_bf16" else pixels)
        pickle.dump(answer, answers)
        answers.flush()


class Contender:
    """open_clip_torch in a process of its own."""

    def __init__(self, packages: Path, *given: Any) -> None:
        if not (packages / "open_clip").is_dir():
            sys.exit(f"{packages} holds no open_clip; make it with: python tests/parity/install.py")
        command = [sys.executable, __file__, "--contend", str(packages)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.send(given)

    def send(self, value: Any) -> None:
        assert self.process.stdin is not None
        pickle.dump(value, self.process.stdin)
        self.process.stdin.flush()

    def measure(self, precision: str, side: str) -> tuple[float, Tensor]:
        self.send((precision, side))
        assert self.process.stdout is not None
        answer: tuple[float, Tensor] = pickle.load(self.process.stdout)
        return answer


def limits() -> dict[str, Callable[[], float]]:
    """For each precision what gives the operations a second of large matrix products, now."""
    from oneclip.engine.machine import kernels_for

    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        pairs = [(torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)) for m, k, n in SHAPES]
        packed = [kernels_for(name).pack(weight, None) for _, weight in pairs]

        def rate(pairs: Any = pairs, packed: Any = packed) -> float:
            rates = []
            for (x, weight), linear in zip(pairs, packed, strict=True):
                operations = 2 * x.shape[0] * weight.numel()
                for seconds, _ in (timed(linear, x), timed(torch.matmul, x, weight.T)):
                    rates.append(operations / seconds)
            return max(rates)

        found[name] = rate
    return found


def operations(model: Any, batch: int) -> int:
    """Multiplications and additions of the whole visual transformer for a batch, less what a plan leaves out."""
    visual = model.visual
    width, layers, patches = (
        visual.conv1.out_channels,
        visual.transformer.layers,
        visual.conv1.weight[0].numel(),
    )
    tokens = len(visual.positional_embedding)
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    last = 2 * tokens * 2 * width**2 + 2 * 10 * width**2 + 4 * tokens * width
    return int(batch * ((layers - 1) * block + last + 2 * (tokens - 1) * patches * width))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("ONECLIP_PARITY_PACKAGES", str(ROOT / ".parity" / "packages"))
    parser.add_argument("--packages", type=Path, default=Path(default), help="folder with open_clip_torch")
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=13)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        contend(options.contend)
        return

    sys.path.insert(0, str(ROOT / "src"))
    from oneclip import zoo
    from oneclip.engine.plan import image_plan, text_plan
    from oneclip.model import build_model

    torch.manual_seed(0)
    model: Any = build_model(zoo.architecture(options.architecture)).eval()
    height, width = model.visual.image_size
    pixels = torch.randn(options.batch, 3, height, width)
    ids = torch.zeros(options.batch, model.context_length, dtype=torch.long)
    ids[:, : options.tokens] = torch.randint(1, model.vocab_size - 1, (options.batch, options.tokens))
    ids[:, options.tokens - 1] = model.vocab_size - 1  # the end of text

    ways: dict[str, dict[str, Callable[[], Tensor]]] = {
        "plain module, fp32": {
            "images": lambda: model.encode_image(pixels),
            "captions": lambda: model.encode_text(ids),
        }
    }
    for precision in ("fp32", "bf16", "int8"):
        plans = image_plan(model, precision), text_plan(model, precision)
        print(f"plan, {precision}: {plans[0].describe()}")
        ways[f"plan, {precision}"] = {
            "images": lambda plan=plans[0]: plan(pixels),
            "captions": lambda plan=plans[1]: plan(model.trim(ids)),
        }
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(model.state_dict(), weights)
        contender = Contender(options.packages, options.architecture, weights, pixels, ids)
        contender.measure("fp32", "images")
    rates, seconds, features = limits(), defaultdict(list), {}
    rate_of = defaultdict(list)
    for number in range(options.rounds + 1):  # the first warms up
        for side in ("images", "captions"):
            taken = {name: timed(way[side]) for name, way in ways.items()}
            taken |= {f"open_clip_torch, {p}": contender.measure(p, side) for p in PUBLISHED}
            for name, (time_taken, found) in taken.items():
                features[side, name] = found
                if number:
                    seconds[side, name].append(time_taken)
        for precision, rate in rates.items():
            rate_of[precision].append(rate())
    contender.send(None)

    print(
        f"\n{options.architecture}, batches of {options.batch}, captions of {options.tokens} tokens, ", end=""
    )
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians of {options.rounds} rounds")
    print(f"{'':38} {'a second':>9} {'x fp32':>7} {'x pure_bf16':>12} {'worst cosine':>13}")
    for (side, name), times in sorted(seconds.items(), key=lambda item: item[0][0], reverse=True):
        ratios = [
            statistics.median(
                theirs / mine
                for theirs, mine in zip(seconds[side, f"open_clip_torch, {p}"], times, strict=True)
            )
            for p in PUBLISHED
        ]
        reference = features[side, "plain module, fp32"].double()
        cosine = torch.cosine_similarity(features[side, name].double(), reference, dim=-1).min()
        speed = options.batch / statistics.median(times)
        print(f"{side}, {name:28} {speed:>9.1f} {ratios[0]:>7.2f} {ratios[1]:>12.2f} {cosine:>13.7f}")
    for precision, found in rate_of.items():
        limit = statistics.median(found)
        rate = operations(model, options.batch) / statistics.median(seconds["images", f"plan, {precision}"])
        print(f"limit, {precision}: {limit / 1e9:,.0f} GFLOP/s; of it, images take {rate / limit:.2f}")


if __name__ == "__main__":
    main()
