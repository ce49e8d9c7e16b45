"""Entrants of the benchmarks: each package encodes the same images and the same texts.

Each function takes a folder of `given.write_model`, with `pixels.pt` and `captions.txt`. Tasks are called "images,
PRECISION" and "captions, PRECISION", and return features (N, D) as numpy. Each package uses its own tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contest.arena import ours, published

CAPTIONS_AT_ONCE = 32


def of_ours(folder: Path) -> dict[str, Callable[[], Any]]:
    """Run encoders in each precision, and the plain module as reference."""
    ours()
    import oneclip

    pixels, captions = _inputs(folder)
    tasks: dict[str, Callable[[], Any]] = {}
    for precision in ("fp32", "bf16", "int8"):
        clip = oneclip.load(folder / "model", device="cpu", precision=precision)
        tasks[f"images, {precision}"] = lambda clip=clip: clip.encode_pixels(pixels).numpy()
        tasks[f"captions, {precision}"] = lambda clip=clip: clip.encode_texts(captions)
        if precision == "fp32":
            tasks["images, reference"] = partial(_run, clip.model.encode_image, pixels)
            tasks["captions, reference"] = partial(
                _in_batches, clip.model.encode_text, clip.tokenizer, captions
            )
    return tasks


def of_open_clip(folder: Path) -> dict[str, Callable[[], Any]]:
    """Run open_clip_torch in fp32, in fp32 under autocast to bf16, and in `pure_bf16`."""
    published()
    import open_clip

    pixels, captions = _inputs(folder)
    name = f"local-dir:{folder / 'model'}"
    tokenizer = open_clip.get_tokenizer(name)
    tasks: dict[str, Callable[[], Any]] = {}
    for precision in ("fp32", "pure_bf16"):
        model = open_clip.create_model(name, precision=precision).eval()
        own = pixels.bfloat16() if precision == "pure_bf16" else pixels
        tasks[f"images, {precision}"] = partial(_run, model.encode_image, own)
        tasks[f"captions, {precision}"] = partial(_in_batches, model.encode_text, tokenizer, captions)
        if precision == "fp32":
            tasks["images, autocast"] = partial(_autocast, _run, model.encode_image, own)
            tasks["captions, autocast"] = partial(
                _autocast, _in_batches, model.encode_text, tokenizer, captions
            )
    return tasks


def of_transformers(folder: Path) -> dict[str, Callable[[], Any]]:
    """Run transformers' CLIPModel in fp32 and bf16, with texts padded to the longest of a batch."""
    from torch import nn
    from transformers import AutoTokenizer, CLIPModel

    pixels, captions = _inputs(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "transformers")

    def vector(output: Any) -> Any:
        return output if isinstance(output, torch.Tensor) else output.pooler_output

    def encode_texts(model: nn.Module, texts: list[str]) -> Any:
        rows = tokenizer(texts, padding="longest", return_tensors="pt")
        return vector(model.get_text_features(**rows))

    tasks: dict[str, Callable[[], Any]] = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = CLIPModel.from_pretrained(folder / "transformers", dtype=dtype).eval()
        own = pixels.to(dtype)
        tasks[f"images, {precision}"] = partial(
            _run, lambda x, model=model: vector(model.get_image_features(x)), own
        )
        encode = partial(encode_texts, model)
        tasks[f"captions, {precision}"] = partial(_in_batches, encode, list, captions)
    return tasks


def of_openai(folder: Path) -> dict[str, Callable[[], Any]]:
    """Run OpenAI's package in fp32, from `clip.load(…, device="cpu")`."""
    published()
    import clip

    pixels, captions = _inputs(folder)
    model, _ = clip.load(str(folder / "openai.pt"), device="cpu", jit=False)
    return {
        "images, fp32": partial(_run, model.encode_image, pixels),
        "captions, fp32": partial(_in_batches, model.encode_text, clip.tokenize, captions),
    }


def of_onnx_runtime(folder: Path) -> dict[str, Callable[[], Any]]:
    """Run ONNX Runtime on the exported image tower, in fp32 and with dynamic int8 quantization."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    pixels, _ = _inputs(folder)
    small = folder / "image.int8.onnx"
    quantize_dynamic(folder / "image.onnx", small, per_channel=True, weight_type=QuantType.QInt8)
    batch = {"pixels": pixels.numpy()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    tasks: dict[str, Callable[[], Any]] = {}
    for precision, path in (("fp32", folder / "image.onnx"), ("int8", small)):
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        tasks[f"images, {precision}"] = lambda session=session: session.run(None, batch)[0]
    return tasks


def of_openvino(folder: Path) -> dict[str, Callable[[], Any]]:
    """Run OpenVINO on the same export, in fp32 and bf16."""
    import openvino

    pixels, _ = _inputs(folder)
    core = openvino.Core()
    tasks: dict[str, Callable[[], Any]] = {}
    for precision, hint in (("fp32", "f32"), ("bf16", "bf16")):
        config = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",  # all threads work on one batch
        }
        compiled = core.compile_model(core.read_model(folder / "image.onnx"), "CPU", config)
        tasks[f"images, {precision}"] = lambda compiled=compiled: np.array(compiled(pixels.numpy())[0])
    return tasks


def _inputs(folder: Path) -> tuple[torch.Tensor, list[str]]:
    pixels: torch.Tensor = torch.load(folder / "pixels.pt")
    return pixels, (folder / "captions.txt").read_text(encoding="utf-8").splitlines()


def _run(compute: Callable[[Any], Any], batch: Any) -> Any:
    with torch.inference_mode():
        return compute(batch).float().numpy()


def _in_batches(encode: Callable[[Any], Any], prepare: Callable[[list[str]], Any], texts: list[str]) -> Any:
    with torch.inference_mode():
        batches = (texts[i : i + CAPTIONS_AT_ONCE] for i in range(0, len(texts), CAPTIONS_AT_ONCE))
        return np.concatenate([encode(prepare(batch)).float().numpy() for batch in batches])


def _autocast(run: Callable[..., Any], *arguments: Any) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return run(*arguments)
