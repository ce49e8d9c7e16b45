"""How fast are images and texts encoded on a GPU, compared with the published packages, and how busy is the GPU?

    python benchmarks/gpu.py [--packages FOLDER] [--architecture NAME …] [--batch 256] [--tokens 13] [--rounds 7]

Tensors on the GPU in, tensors on the GPU out: only the towers, with the same random weights and inputs for all.
open_clip_torch (`pure_bf16`) and transformers (bf16, texts padded to the longest) each run in their own process,
plain and compiled (`torch.compile`, mode max-autotune); ours as the plain module and with plans. All take turns in
every round. The table also shows the worst cosine to the plain module in fp32, and the share of the GPU's bf16 matrix
rate, which is the best of `torch.matmul` over a few large shapes in the same rounds. Without a GPU the program says
so and exits; `--device cpu` only shows that it runs.
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
ARCHITECTURES = ("ViT-B-32", "ViT-L-14", "ViT-SO400M-14-SigLIP-384")
SHAPES = ((8192, 8192, 8192), (65536, 1024, 4096), (65536, 4096, 1024))  # rows, inputs, outputs
LEAST = 0.2  # seconds of one measurement
SIDES = ("images", "captions")
Ways = dict[str, Callable[[], Tensor]]


def timed(compute: Callable[[], Any]) -> tuple[float, Tensor]:
    """Return the time of one call, averaged over `LEAST` seconds, and its result."""
    calls, taken = 1, 0.0
    with torch.inference_mode():
        while True:
            synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                features = compute()
            synchronize()
            taken = time.perf_counter() - start
            if taken >= LEAST or not torch.cuda.is_available():
                break
            calls = max(calls + 1, int(1.2 * calls * LEAST / max(taken, 1e-4)))
    tensor = features if isinstance(features, Tensor) else features.pooler_output
    return taken / calls, tensor.float().cpu().clone()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ------------------------------------------------------------------------------------------------- the contenders


def open_clip_ways(given: dict[str, Any]) -> dict[str, Ways]:
    """Run open_clip_torch in `pure_bf16`."""
    sys.path[:0] = [given["packages"], str(ROOT / "tests")]
    from torchvision_stub import declare_operators

    declare_operators()
    import open_clip

    model = open_clip.create_model(given["architecture"], precision="pure_bf16", device=given["device"])
    model.load_state_dict(torch.load(given["weights"])["ours"])
    pixels, ids = (given[side].to(given["device"]) for side in SIDES)
    pixels = pixels.bfloat16()
    return both(model.eval().encode_image, model.encode_text, pixels, ids, given["compile"])


def transformers_ways(given: dict[str, Any]) -> dict[str, Ways]:
    """Run transformers in bf16, with texts padded to the longest."""
    sys.path.insert(0, str(ROOT / "tests"))
    from torchvision_stub import declare_operators

    declare_operators()
    from transformers import AutoConfig, AutoModel

    published = torch.load(given["weights"])
    model = AutoModel.from_config(AutoConfig.for_model(**published["config"]))
    left = model.load_state_dict(published["theirs"], strict=False)
    missing = [name for name in left.missing_keys if not name.endswith("position_ids")]
    if missing or left.unexpected_keys:
        raise RuntimeError(f"transformers' model has other weights: {missing} {left.unexpected_keys}")
    model = model.to(given["device"], torch.bfloat16).eval()
    pixels, ids = given["images"].to(given["device"]).bfloat16(), given["captions"].to(given["device"])
    ids = ids[:, : given["longest"]].contiguous()
    return both(model.get_image_features, model.get_text_features, pixels, ids, given["compile"])


def both(image: Any, text: Any, pixels: Tensor, ids: Tensor, compiles: bool) -> dict[str, Ways]:
    """Return two methods, plain and compiled."""
    ways: dict[str, Ways] = {"bf16": {"images": lambda: image(pixels), "captions": lambda: text(ids)}}
    if compiles:
        fast = [torch.compile(method, mode="max-autotune") for method in (image, text)]
        ways["bf16 compiled"] = {"images": lambda: fast[0](pixels), "captions": lambda: fast[1](ids)}
    return ways


PACKAGES = {"open_clip_torch": open_clip_ways, "transformers": transformers_ways}


def contend(package: str) -> None:
    """Answer (way, side) on stdin with (seconds, features) or an error message on stdout."""
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    ways = PACKAGES[package](pickle.load(sys.stdin.buffer))
    pickle.dump(list(ways), answers)
    answers.flush()
    while (asked := pickle.load(sys.stdin.buffer)) is not None:
        try:
            answer: Any = timed(ways[asked[0]][asked[1]])
        except Exception as error:  # no compiler, or out of memory: reported
            answer = f"{type(error).__name__}: {error}".splitlines()[0]
        pickle.dump(answer, answers)
        answers.flush()


class Contender:
    """Package in its own process."""

    def __init__(self, package: str, given: dict[str, Any]) -> None:
        self.package = package
        command = [sys.executable, __file__, "--contend", package]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.send(given)
        self.ways: list[str] = self.receive()
        for way in list(self.ways):  # compiles, and warms up
            for side in SIDES:
                if way in self.ways and isinstance(words := self.measure(way, side), str):
                    print(f"{package}, {way}, is skipped: {words}")
                    self.ways.remove(way)

    def send(self, value: Any) -> None:
        assert self.process.stdin is not None
        pickle.dump(value, self.process.stdin)
        self.process.stdin.flush()

    def receive(self) -> Any:
        assert self.process.stdout is not None
        try:
            return pickle.load(self.process.stdout)
        except EOFError:
            sys.exit(f"{self.package} exited; its output is above")

    def measure(self, way: str, side: str) -> Any:
        self.send((way, side))
        return self.receive()

    def end(self) -> None:
        self.send(None)
        self.process.wait()


# ------------------------------------------------------------------------------------------------- the limit


def operations(visual: Any) -> int:
    """Count the operations for one image, without those that a plan skips."""
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        width, tokens, layers = trunk.embed_dim, trunk.pos_embed.shape[1], len(trunk.blocks)
        hidden, patches = trunk.blocks[0].mlp.fc1.out_features, tokens
        pixels = trunk.patch_embed.proj.weight[0].numel()
        of_one = width**2 + 2 * width * hidden  # the pool's
    else:
        width, tokens = visual.conv1.out_channels, len(visual.positional_embedding)
        layers, patches = visual.transformer.layers - 1, tokens - 1
        hidden, pixels = (
            visual.transformer.resblocks[0].mlp.c_fc.out_features,
            visual.conv1.weight[0].numel(),
        )
        of_one = 2 * width**2 + 2 * width * hidden  # the last block's
    block = 2 * tokens * (4 * width**2 + 2 * width * hidden) + 4 * tokens**2 * width
    pooled = 4 * tokens * width**2 + 4 * tokens * width + 2 * of_one
    return int(layers * block + pooled + 2 * patches * pixels * width)


def matrix_rate(device: str, shapes: tuple[tuple[int, int, int], ...]) -> Callable[[], float]:
    """Make a function that measures the rate of large bf16 matrix products."""
    pairs = [
        (torch.randn(m, k, device=device).bfloat16(), torch.randn(k, n, device=device).bfloat16())
        for m, k, n in shapes
    ]

    def rate() -> float:
        rates = []
        for x, weight in pairs:
            seconds, _ = timed(lambda x=x, weight=weight: torch.matmul(x, weight)[:1])
            rates.append(2 * x.shape[0] * weight.numel() / seconds)
        return max(rates)

    return rate


# ------------------------------------------------------------------------------------------------- the whole


def compare(architecture: str, options: argparse.Namespace) -> None:
    """Measure one architecture and print its table."""
    from oneclip import zoo
    from oneclip.checkpoint.convert import transformers_format
    from oneclip.checkpoint.formats import NativeCheckpoint
    from oneclip.config import PreprocessCfg
    from oneclip.engine.plan import make_image_plan, make_text_plan
    from oneclip.model import build_model

    torch.manual_seed(0)
    cfg = zoo.architecture(architecture)
    model: Any = build_model(cfg).eval()
    state_dict = dict(model.state_dict())
    height, width = model.visual.image_size
    pixels = torch.randn(options.batch, 3, height, width)
    ids = torch.zeros(options.batch, model.context_length, dtype=torch.long)
    ids[:, : options.tokens] = torch.randint(1, model.vocab_size - 1, (options.batch, options.tokens))
    ids[:, options.tokens - 1] = model.vocab_size - 1  # the end of text
    shortest = model.trim(ids)
    with TemporaryDirectory() as folder:
        published = transformers_format(cfg).write(
            NativeCheckpoint(state_dict, cfg, PreprocessCfg(size=(height, width)))
        )
        weights = Path(folder) / "weights.pt"
        torch.save({"ours": state_dict, "theirs": published.state_dict, "config": published.config}, weights)
        given = {
            "packages": str(options.packages),
            "architecture": architecture,
            "device": options.device,
            "weights": str(weights),
            "images": pixels,
            "captions": ids,
            "longest": shortest.shape[1],
            "compile": options.compile,
        }
        contenders = [Contender(package, given) for package in PACKAGES]
    model = model.to(options.device)
    pixels, shortest = pixels.to(options.device), shortest.to(options.device)
    low = pixels.bfloat16()
    ways: dict[str, Ways] = {
        "plain module, fp32": {
            "images": lambda: model.encode_image(pixels),
            "captions": lambda: model.encode_text(shortest),
        }
    }
    for precision in ("bf16", "fp16") if options.device == "cuda" else ("bf16",):
        plans = make_image_plan(model, precision), make_text_plan(model, precision)
        print(f"plan, {precision}: {plans[0].describe()}; captions: {plans[1].describe()}")
        ways[f"plan, {precision}"] = {
            "images": lambda plan=plans[0]: plan(low),
            "captions": lambda plan=plans[1]: plan(shortest),
        }
    rate = matrix_rate(options.device, SHAPES if options.device == "cuda" else ((512, 512, 512),))
    seconds, features, rates = defaultdict(list), {}, []
    for number in range(options.rounds + 1):  # the first warms up
        for side in SIDES:
            taken = {name: timed(way[side]) for name, way in ways.items()}
            for contender in contenders:
                for way in contender.ways:
                    answer = contender.measure(way, side)
                    if isinstance(answer, str):
                        sys.exit(f"{contender.package}, {way}: {answer}")
                    taken[f"{contender.package}, {way}"] = answer
            for name, (time_taken, found) in taken.items():
                features[side, name] = found
                if number:
                    seconds[side, name].append(time_taken)
        if number:
            rates.append(rate())
    for contender in contenders:
        contender.end()
    tell(architecture, seconds, features, options)
    limit, count = statistics.median(rates), options.batch * operations(model.visual)
    print(f"bf16 matrix products: {limit / 1e12:,.1f} TFLOP/s; of it, images take", end=" ")
    print(f"{count / statistics.median(seconds['images', 'plan, bf16']) / limit:.2f} in the plan")


def tell(architecture: str, seconds: Any, features: Any, options: argparse.Namespace) -> None:
    """Print the speed of each, and the ratio of ours to the best of each package."""
    print(f"\n{architecture}, batches of {options.batch}, captions of {options.tokens} tokens; ", end="")
    print(f"medians of {options.rounds} rounds")
    print(f"{'':46} {'a second':>10} {'x open_clip':>12} {'x transformers':>15} {'worst cosine':>13}")
    for side in SIDES:
        names = [name for of, name in seconds if of == side]
        best = {
            package: min(
                (seconds[side, name] for name in names if name.startswith(package)), key=statistics.median
            )
            for package in PACKAGES
        }
        reference = features[side, "plain module, fp32"].double()
        for name in names:
            times = seconds[side, name]
            ratios = [
                statistics.median(theirs / mine for theirs, mine in zip(best[package], times, strict=True))
                for package in PACKAGES
            ]
            cosine = torch.cosine_similarity(features[side, name].double(), reference, dim=-1).min()
            speed = options.batch / statistics.median(times)
            print(f"{side}, {name:36} {speed:>10,.0f} {ratios[0]:>12.2f} {ratios[1]:>15.2f} {cosine:>13.7f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("ONECLIP_PARITY_PACKAGES", str(ROOT / ".parity" / "packages"))
    parser.add_argument("--packages", type=Path, default=Path(default), help="folder with open_clip_torch")
    parser.add_argument("--architecture", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=13)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu only to try the program"
    )
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        contend(options.contend)
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU: nothing to measure")
        return
    if not (options.packages / "open_clip").is_dir():
        sys.exit(
            f"{options.packages} does not contain open_clip; install it with: python tests/parity/install.py"
        )
    sys.path.insert(0, str(ROOT / "src"))
    card = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}")
    for architecture in options.architecture:
        compare(architecture, options)


if __name__ == "__main__":
    main()
