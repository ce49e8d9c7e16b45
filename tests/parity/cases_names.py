"""Values and small functions that programs import from the modules of a package, private ones too."""

from __future__ import annotations

import gzip
import importlib
import json
import random
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from cases_factory import plain
from PIL import Image

Observed = dict[str, Any]
NAMES = json.loads(
    gzip.decompress((Path(__file__).parents[1] / "facades" / "published_names.json.gz").read_bytes())
)
FOLDERS = (
    "pytorch_model.bin model.safetensors other.safetensors",
    "z.bin a.pth",
    "z.bin b.safetensors a.safetensors",
    "open_clip_pytorch_model.bin open_clip_model.safetensors",
    "README.md",
)
TEXTS = ("  A  Photo,\nof&amp;amp; a DOG! ", "caf\u00c3\u00a9_x", "")


def observe(package: Any) -> Observed:
    name = package.__name__
    modules = {m.rpartition(".")[2]: importlib.import_module(m) for m in NAMES if m.split(".")[0] == name}
    parts = SimpleNamespace(**modules)
    functions = of_open_clip(parts) if name == "open_clip" else {"filter": str(parts.clip.BICUBIC)}
    return {"values": values(name), "functions": functions}


def values(package: str) -> Observed:
    """Return all values that are plain data."""
    found: Observed = {}
    for module, names in NAMES.items():
        for name, entry in names.items():
            if entry["kind"] == "value" and module.split(".")[0] == package:
                value = getattr(importlib.import_module(module), name)
                value = sorted(value) if isinstance(value, set) else value
                if is_data(value):
                    found[f"{module}.{name}"] = plain(value)
    return found


def is_data(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(is_data, value.values()))
    if isinstance(value, (tuple, list)):
        return all(map(is_data, value))
    return value is None or isinstance(value, (str, int, float))


def of_open_clip(parts: Any) -> Observed:
    return {
        **of_factory(parts.factory),
        **of_pretrained(parts.pretrained),
        **of_images(parts.transform),
        **of_texts(parts.tokenizer),
        **of_positions(parts.pos_embed),
        "snake": [parts.hf_model._camel2snake(name) for name in ("MeanPooler", "A", "aBC", "")],
        "n times": [plain(parts.utils._ntuple(n)(x)) for n, x in ((2, 3), (3, (1, 2)), (1, "ab"))],
        "last": [plain(parts.utils._out_indices_as_tuple(x)) for x in (3, (0, 2))],
        "batches": [list(batch) for batch in parts.zero_shot_classifier.batched("abcde", 2)],
    }


def of_factory(factory: Any) -> Observed:
    seen: Observed = {"sorted": sorted(("b2", "b10", "A3x", "a3"), key=factory._natural_key)}
    for names in FOLDERS:
        with tempfile.TemporaryDirectory() as folder:
            for name in names.split():
                Path(folder, name).touch()
            found = factory._find_checkpoint_in_dir(Path(folder))
            seen[f"weights among {names}"] = found and Path(found).name
    for precision in ("fp32", "amp", "bf16", "pure_bf16"):
        for is_timm in (False, True):
            model = torch.nn.Sequential(
                torch.nn.Linear(2, 3), torch.nn.LayerNorm(3), torch.nn.Conv2d(3, 4, 1)
            )
            factory._set_model_device_and_precision(model, torch.device("cpu"), precision, is_timm)
            seen[f"{precision} {is_timm}"] = [str(p.dtype) for p in model.parameters()]
    return seen


def of_pretrained(pretrained: Any) -> Observed:
    described = ("_pcfg", "_slpcfg", "_apcfg", "_mccfg", "_mc2cfg", "_pecfg")
    seen: Observed = {
        name: plain(getattr(pretrained, name)("u", hf_hub="a/b/", std=1, quick_gelu=True))
        for name in described
    }
    files = ("open_clip_pytorch_model.bin", "a.bin", "a.pth", "a.safetensors", "a.pt")
    seen["alternatives"] = {name: list(pretrained._get_safe_alternatives(name)) for name in files}
    seen["tag"] = pretrained._clean_tag("LAION-400M_e32")
    seen["hub"] = [pretrained.has_hf_hub(), pretrained.has_hf_hub(True)]
    seen["client"] = pretrained.hf_hub_download.keywords
    pretrained._PRETRAINED["RN50"]["mine"] = {"url": "", "hf_hub": "", "file": "mine.pt"}
    try:
        seen["added"] = [
            pretrained.is_pretrained_cfg("RN50", "Mine"),
            pretrained.list_pretrained_models_by_tag("mine"),
            pretrained.list_pretrained_tags_by_model("RN50")[-1],
            pretrained.download_pretrained(pretrained.get_pretrained_cfg("RN50", "mine")),
        ]
    finally:
        del pretrained._PRETRAINED["RN50"]["mine"]
    return seen


def of_images(transform: Any) -> Observed:
    random.seed(0)
    image = Image.new("RGB", (200, 77))
    draws = {"random_scale_prob": 0.5, "random_aspect_prob": 0.5}
    resize = transform.ResizeKeepRatio.get_params
    return {
        "sizes": [list(resize(image, (32, 48), longest, **draws)) for longest in (0.0, 0.3, 1.0) * 20],
        "set up": [plain(transform._setup_size(size, "")) for size in (5, (6,), [7, 8])],
        "refused": refusal(lambda: transform._setup_size((1, 2, 3), "two numbers, please")),
        "merged": plain(transform.merge_preprocess_dict(transform.PreprocessCfg(), {"size": 7, "x": 1})),
        "whole": plain(vars(transform.PreprocessCfg(32, "RGB", (0.5,) * 3)) | {"background": None}),
    }


def refusal(call: Any) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def of_texts(tokenizer: Any) -> Observed:
    cleaners = ("lower", "whitespace", "canonicalize")
    add = tokenizer.HFTokenizer._pad_and_add_class_token
    return {
        **{name: [getattr(tokenizer, f"_clean_{name}")(text) for text in TEXTS] for name in cleaners},
        "chosen": [tokenizer.get_clean_fn(n) is getattr(tokenizer, f"_clean_{n}") for n in cleaners],
        "class token": [add(None, list(range(n)), 6) for n in (0, 4, 5, 9)],
        "class token 7": add(None, [1, 2], max_length=4, pad_token_id=3, cls_token_id=7),
    }


def of_positions(pos_embed: Any) -> Observed:
    """Interpolate positions of 3 x 3 patches to other grids, with one and two prefix tokens."""
    seen: Observed = {}
    for prefix in (0, 1, 2):
        for side in (2, 3, 5):
            model = SimpleNamespace(
                pos_embed=torch.zeros(1, prefix + side**2, 8),
                patch_embed=SimpleNamespace(num_patches=side**2),
            )
            generator = torch.Generator().manual_seed(side)
            state = {"pos_embed": torch.randn(1, prefix + 9, 8, generator=generator)}
            pos_embed.interpolate_pos_embed(model, state)
            seen[f"positions, {prefix} {side}"] = state["pos_embed"]
    pos_embed.interpolate_pos_embed(None, {})
    return seen
