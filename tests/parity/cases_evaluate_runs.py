"""Whole runs on data sets of tars, from the image files to the metrics; both sides of a comparison run this file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from cases_evaluate import TEXT, VISION, build_model
from small_datasets import COLOURS, make_wds

KINDS = ("classification", "multilabel", "retrieval")
DIM = 24


def write_inputs(package: Any, folder: Path) -> None:
    """Write a data set of each kind, and a model as open_clip_torch publishes it."""
    for kind in KINDS:
        make_wds(folder / kind, kind, classes=list(COLOURS), splits={"test": 5}, format="png")
    (folder / "model").mkdir()
    cfg = {
        "embed_dim": DIM,
        "vision_cfg": VISION,
        "text_cfg": {"context_length": 77, "vocab_size": 49408, **TEXT},
    }
    (folder / "tiny.json").write_text(json.dumps(cfg))
    (folder / "model" / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": cfg, "preprocess_cfg": {}})
    )
    torch.save(build_model(package).state_dict(), folder / "model" / "open_clip_pytorch_model.bin")


def of_clip_benchmark(package: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the result files that CLIP_benchmark's command line writes."""
    from clip_benchmark.cli import main

    write_inputs(package, folder)
    package.add_model_config(folder / "tiny.json")
    results = {}
    for kind in KINDS:
        output = folder / f"{kind}.json"
        task = "zeroshot_retrieval" if kind == "retrieval" else "zeroshot_classification"
        options = {
            "dataset": f"wds/{kind}",
            "dataset_root": folder / kind,
            "model": "tiny",
            "pretrained": folder / "model" / "open_clip_pytorch_model.bin",
            "task": task,
            "output": output,
            "batch_size": 8,
            "num_workers": 0,
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        with mock.patch.object(
            sys, "argv", ["", "eval", "--no_amp", *arguments, "--recall_k", "1", "5", "10"]
        ):
            main()
        results[kind] = json.loads(output.read_text())
    return results


def of_oneclip(package: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the result files that we write with compat."""
    import oneclip
    from oneclip.evaluate.run import evaluate_all
    from oneclip.evaluate.scoring import TaskOptions

    write_inputs(package, folder)
    model = oneclip.load(folder / "model", device="cpu")
    results = {}
    for kind in KINDS:
        out = folder / f"results of {kind}"
        evaluate_all([model], [folder / kind], options=TaskOptions(compat=True), out=out, cache=False)
        (path,) = out.glob("*.json")
        results[kind] = json.loads(path.read_text())
    return results
