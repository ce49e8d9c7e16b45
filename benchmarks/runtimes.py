"""How fast is an exported model in ONNX Runtime and OpenVINO, in each precision, beside our engine on the same weights?

    python benchmarks/runtimes.py [--architecture ViT-B-32] [--batches 1,8] [--rounds 5] [--side image]

The model has random weights. All take turns on the same preprocessed inputs, and the median of the rounds counts. The
cosine is the median to our engine in fp32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from contest import given
from contest.arena import machine, ours

PRECISIONS = ("fp32", "fp16", "int8")
TORCH = ("fp32", "int8")


def main() -> None:
    """Export a model, run it everywhere and print a table for each batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=("image", "text"), default="image")
    options = parser.parse_args()
    ours()
    print(machine(), flush=True)
    with TemporaryDirectory() as folder:
        tasks = contenders(Path(folder), options.architecture, options.side)
        for batch in map(int, options.batches.split(",")):
            inputs = make_inputs(options.architecture, options.side, batch)
            report(*run(tasks, inputs, options.rounds), batch, options.side)


def contenders(folder: Path, architecture: str, side: str) -> dict[str, Callable[[Any], Any]]:
    """Export a model with random weights and return a function from inputs to embeddings for each contender."""
    import oneclip
    from oneclip import zoo
    from oneclip.checkpoint.convert import ConvertibleModel, convert
    from oneclip.config import PreprocessCfg
    from oneclip.export import ExportRequest
    from oneclip.export.fp16 import write_fp16
    from oneclip.export.int8 import write_int8
    from oneclip.export.onnx_export import write_onnx
    from oneclip.export.towers import exported_tower, has_dynamic_length
    from oneclip.model import build_model
    from oneclip.runtime.sessions import open_session

    cfg = zoo.architecture(architecture)
    torch.manual_seed(given.SEED)
    model: Any = build_model(cfg).eval()
    pixels = PreprocessCfg(size=cfg.vision_cfg.image_size)
    convert(ConvertibleModel(model.state_dict(), cfg, pixels), folder / "model", "open_clip")
    encoder = oneclip.load(folder / "model", device="cpu")
    tower = exported_tower(encoder, side)  # type: ignore[arg-type]
    files = {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}
    with torch.no_grad():
        write_onnx(
            tower.module.eval(),
            tower.example,
            files["fp32"],
            input_name=tower.input_name,
            output_name=tower.output_name,
            longest=encoder.context_length if side == "text" and has_dynamic_length(encoder) else None,
        )
    write_fp16(files["fp32"], files["fp16"])
    write_int8(files["fp32"], files["int8"], side=side, encoder=encoder, request=ExportRequest())  # type: ignore[arg-type]

    tasks: dict[str, Callable[[Any], Any]] = {}
    for precision in TORCH:
        loaded = oneclip.load(folder / "model", device="cpu", precision=precision)
        encode = loaded.encode_pixels if side == "image" else loaded.encode_tokens
        tasks[f"oneclip, {precision}"] = lambda x, encode=encode: _array(encode(torch.from_numpy(x)))
    runtimes = [("onnx", "ONNX Runtime", files)]
    try:
        import openvino
    except ImportError:
        print("OpenVINO is not installed")
    else:
        for file in files.values():
            openvino.save_model(
                openvino.convert_model(file), file.with_suffix(".xml"), compress_to_fp16=False
            )
        runtimes.append(("openvino", "OpenVINO", {p: file.with_suffix(".xml") for p, file in files.items()}))
    for runtime, name, paths in runtimes:
        for precision, path in paths.items():
            session = open_session(runtime, path, tower.output_name, "cpu")
            tasks[f"{name}, {precision}"] = lambda x, session=session: session.run({tower.input_name: x})
    return tasks


def make_inputs(architecture: str, side: str, batch: int) -> Any:
    """Make preprocessed images, or token ids cut after the longest text."""
    if side == "image":
        return given.pixels(architecture, batch).numpy()
    from oneclip import zoo
    from oneclip.text import get_tokenizer

    cfg = zoo.architecture(architecture).text_cfg
    ids = np.asarray(get_tokenizer(cfg)(given.captions(batch), cfg.context_length))
    return np.ascontiguousarray(ids[:, : int((ids != 0).any(0).nonzero()[0].max()) + 1])


def run(
    tasks: dict[str, Callable[[Any], Any]], inputs: Any, rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run all contenders in turn; return the seconds of each round, and the embeddings."""
    seconds: dict[str, list[float]] = defaultdict(list)
    found = {name: task(inputs) for name, task in tasks.items()}  # not counted
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task(inputs)
            seconds[name].append(time.perf_counter() - start)
    return seconds, found


def report(seconds: dict[str, list[float]], found: dict[str, Any], batch: int, side: str) -> None:
    """Print a table, and what to take."""
    exact, base = found["oneclip, fp32"], seconds["ONNX Runtime, fp32"]
    print(f"\n| {side}s in batches of {batch} | {side}s/s | against ONNX Runtime in fp32 | median cosine |")
    print("|---|---|---|---|")
    for name, times in seconds.items():
        ratio = statistics.median(slow / fast for slow, fast in zip(base, times, strict=True))
        cosine = float(np.median((exact * found[name]).sum(1)))
        print(f"| {name} | {batch / statistics.median(times):.1f} | {ratio:.2f}x | {cosine:.5f} |")
    rate = {name: statistics.median(times) for name, times in seconds.items()}
    for what, names in (
        ("in fp32", [name for name in rate if name.endswith("fp32")]),
        ("without torch", [name for name in rate if not name.startswith("oneclip")]),
        ("of all", list(rate)),
    ):
        print(f"Fastest {what}: {min(names, key=rate.__getitem__)}.")


def _array(features: Any) -> Any:
    array = features.float().numpy() if isinstance(features, torch.Tensor) else np.asarray(features)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
