"""Writers of hostile configurations with valid weights, and of files that are not weights; see `hostile`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hostile import Writer, written
from safetensors.torch import save_file
from tiny import tiny_cfg

from oneclip.config import PreprocessCfg
from oneclip.model import build_model


def configurations() -> Iterator[tuple[str, Writer]]:
    """Iterate over folders with valid weights and a hostile configuration."""
    cfg, pixels = tiny_cfg().to_dict(), PreprocessCfg(size=32).to_dict()
    torch.manual_seed(0)
    state = build_model(tiny_cfg()).state_dict()

    def folder_with(content: Any, name: str = "open_clip_config.json") -> Writer:
        def write(folder: Path) -> Path:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            weights = "open_clip_model.safetensors" if name.startswith("open_clip") else "model.safetensors"
            save_file(state, folder / weights)
            written(folder / name, data)
            return folder

        return write

    def model(part: str | None = None, **changes: Any) -> Writer:
        changed = cfg | (changes if part is None else {part: cfg.get(part, {}) | changes})
        return folder_with({"model_cfg": changed, "preprocess_cfg": pixels})

    def preprocessing(**changes: Any) -> Writer:
        return folder_with({"model_cfg": cfg, "preprocess_cfg": pixels | changes})

    yield "config: a hundred megabytes deep", folder_with(b"[" * 10**8)
    yield "config: a hundred megabytes of tables", folder_with(b'{"a":' * (2 * 10**7))
    yield "config: deep, and small enough to read", folder_with(b'{"a":' * 700_000)
    yield "config: a hundred megabytes wide", folder_with(b'{"model_cfg": "' + b"x" * 10**8 + b'"}')
    yield "config: a number of a million digits", folder_with(b'{"model_cfg": ' + b"9" * 10**6 + b"}")
    yield "config: empty", folder_with(b"")
    yield "config: no text", folder_with(b"\xff\xfe\x00")
    yield "config: a list", folder_with([])
    yield "config: a number", folder_with(b"NaN")
    yield "config: no model", folder_with({"preprocess_cfg": pixels})
    yield "config: a model that is a list", folder_with({"model_cfg": []})
    yield "config: a model without towers", folder_with({"model_cfg": {"embed_dim": 16}})
    yield (
        "config: towers that are lists",
        folder_with({"model_cfg": {"embed_dim": 16, "vision_cfg": [], "text_cfg": []}}),
    )
    yield "config: an unknown field", model(run="touch ran")
    yield "config: pixels that are a list", folder_with({"model_cfg": cfg, "preprocess_cfg": [1]})
    yield "config: pixels of text", folder_with({"model_cfg": cfg, "preprocess_cfg": {"size": "x"}})
    yield "config: pixels without end", folder_with({"model_cfg": cfg, "preprocess_cfg": {"size": 10**9}})
    for value in (0, -1, 10**9, 10**30, 1.5, "16", None, [], True, float("nan"), {}):
        yield f"config: embed_dim {value}", model(embed_dim=value)
        yield f"config: layers {value}", model("vision_cfg", layers=value)
        yield f"config: width {value}", model("text_cfg", width=value)
        yield f"config: image_size {value}", model("vision_cfg", image_size=value)
        yield f"config: vocab_size {value}", model("text_cfg", vocab_size=value)
    for value in (-1, 10**9, "16", float("nan"), float("inf")):
        yield f"config: patch_size {value}", model("vision_cfg", patch_size=value)
        yield f"config: mlp_ratio {value}", model("vision_cfg", mlp_ratio=value)
    yield "config: a model of terabytes", model("vision_cfg", width=2**16, layers=200)
    yield "config: positions of terabytes", model("vision_cfg", image_size=2**15, patch_size=1)
    yield "config: a table of terabytes", model("text_cfg", vocab_size=2**24, width=2**16)
    for length in (30_000, 2**20):
        yield f"config: a mask of {length} tokens", model("text_cfg", context_length=length)
        yield f"config: a decoder of {length} tokens", model("multimodal_cfg", context_length=length)
    yield "config: a decoder of terabytes", model("multimodal_cfg", width=2**16, layers=200)
    for value in ("false", "yes", 0, [], {}):
        yield f"config: quick_gelu {value!r}", model(quick_gelu=value)
        yield f"config: no_causal_mask {value!r}", model("text_cfg", no_causal_mask=value)
        yield f"config: no_ln_pre {value!r}", model("vision_cfg", no_ln_pre=value)
    for value in ([32], [32, 32, 32], []):
        yield f"config: an image_size of {len(value)} numbers", model("vision_cfg", image_size=value)
        yield f"config: a patch_size of {len(value)} numbers", model("vision_cfg", patch_size=value)
        yield f"config: {len(value)} layers", model("vision_cfg", layers=value)
        yield f"config: a width of {len(value)} numbers", model("text_cfg", width=value)
    for value in ("x", float("nan"), float("inf"), 10**400, [1.0], None):
        yield f"config: init_logit_scale {str(value)[:9]}", model(init_logit_scale=value)
        yield f"config: text mlp_ratio {str(value)[:9]}", model("text_cfg", mlp_ratio=value)
    for value in (
        {"device": "cuda"},
        {"eps": "x"},
        {"eps": -1},
        {"eps": None},
        {"elementwise_affine": False},
        [1],
        1,
    ):
        yield f"config: visual norm_kwargs {value}", model("vision_cfg", norm_kwargs=value)
        yield f"config: text norm_kwargs {value}", model("text_cfg", norm_kwargs=value)
    for value in ({"approximate": "evil"}, {"approximate": []}, {"inplace": True}, "tanh"):
        yield f"config: act_kwargs {value}", model("text_cfg", act_kwargs=value)
    yield "config: a patch larger than the image", model("vision_cfg", patch_size=64)
    for value in (
        [123, 116, 103],
        [-1, 0, 0],
        [0.5, 0.5],
        "abc",
        None,
        ["a", "b", "c"],
        [float("nan")] * 3,
        0.5,
    ):
        yield f"config: mean {value}", preprocessing(mean=value)
    for value in ([-1, -1, -1], [0, 0, 0], [1, 1], "abc", None, [float("inf")] * 3):
        yield f"config: std {value}", preprocessing(std=value)
    for value in ([64], [64, 64, 64], "64", None):
        yield f"config: a size of {value}", preprocessing(size=value)
    yield "config: a tower from elsewhere", model("vision_cfg", timm_model_name="hf-hub:someone/model")
    yield "config: a tower from a folder", model("vision_cfg", timm_model_name="../../model")
    yield "config: a tower named by a number", model("vision_cfg", timm_model_name=5)
    yield "config.json: deep", folder_with(b'{"model_type": "clip", "a":' + b"[" * 10**6, "config.json")
    yield "config.json: a hundred megabytes deep", folder_with(b"[" * 10**8, "config.json")
    yield "config.json: of a model that it is not", folder_with({"model_type": "clip"}, "config.json")
    yield "config.json: of a model that is not known", folder_with({"model_type": "llama"}, "config.json")
    yield "config.json: of no model", folder_with({"model_type": []}, "config.json")


def others() -> Iterator[tuple[str, Writer]]:
    """Iterate over files that are not weights."""

    def pipe(folder: Path) -> Path:
        os.mkfifo(folder / "open_clip_model.safetensors")
        return folder / "open_clip_model.safetensors"

    def endless(folder: Path) -> Path:
        os.symlink("/dev/zero", folder / "m.safetensors")
        return folder / "m.safetensors"

    yield "a pipe", pipe
    yield "a device without end", endless
    yield "an empty file", lambda folder: written(folder / "m.pt", b"")
    yield "zeros", lambda folder: written(folder / "m.pt", bytes(10**6))
    yield "a page", lambda folder: written(folder / "m.pt", b"<html>" * 1000)
    yield (
        "a pointer of git-lfs",
        lambda folder: written(folder / "m.pt", b"version https://git-lfs.github.com/spec/v1"),
    )
    yield "a script", lambda folder: written(folder / "m.pt", b"#!/bin/sh\ntouch ran\n")
    yield (
        "an old pickle of protocol 0",
        lambda folder: written(folder / "m.pt", b"cos\nsystem\n(S'touch ran'\ntR."),
    )
