"""How long does the evaluation of one model on six data sets take, compared with CLIP_benchmark?

    python benchmarks/evaluation.py [--images 300] [--rounds 3] [--model ViT-B-32] [--workers 0 4]

Data sets in CLIP_benchmark's webdataset layout with its numbers of classes and prompts: five with classes, one of them
with several per image, and one with five captions per image. The images are JPEGs of 320x240, and the weights random.
Whole processes in turn, each a new Python, both in fp32. CLIP_benchmark has its own batch size, and the best of some
numbers of workers. OneCLIP starts each round without a cache, computes with `--compat`, and also writes its report.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from contest import given, photographs
from contest.arena import PACKAGES, ROOT, machine

SHARDS = 4
CLIP_BENCHMARK = PACKAGES.parent / "clip_benchmark"


class DataSet(NamedTuple):
    """Name of a data set, its kind, and its numbers of classes and of prompts for each."""

    name: str
    kind: str
    classes: int = 0
    prompts: int = 0


DATA_SETS = (
    DataSet("vtab/cifar10", "classification", 10, 18),
    DataSet("vtab/pets", "classification", 37, 1),
    DataSet("vtab/dtd", "classification", 47, 8),
    DataSet("vtab/flowers", "classification", 102, 1),
    DataSet("voc2007_multilabel", "multilabel", 20, 1),
    DataSet("flickr8k", "retrieval"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=300, help="of each data set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 4], help="of CLIP_benchmark")
    options = parser.parse_args()
    if not CLIP_BENCHMARK.is_dir():
        sys.exit(f"{CLIP_BENCHMARK} does not exist; install it with: python tests/parity/install.py")
    given.say(
        f"{len(DATA_SETS)} data sets of {options.images} images, {options.model}, {options.rounds} rounds"
    )
    given.say(machine())
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = _write_weights(folder, options.model)
        images = photographs.crops(len(DATA_SETS) * options.images, (320, 240))
        for data_set in DATA_SETS:
            jpegs = [_jpeg(image) for image in islice(images, options.images)]
            _write(folder / "data" / _folder_name(data_set), data_set, jpegs)
        seconds: dict[str, list[float]] = defaultdict(list)
        for number in range(options.rounds):
            for workers in options.workers:
                theirs = folder / f"theirs {number} {workers}"
                command = _their_command(folder / "data", theirs, options.model, weights, workers)
                seconds[f"CLIP_benchmark, {workers} workers"].append(_run(command, folder))
            ours = folder / f"ours {number}"
            seconds["oneclip"].append(
                _run(_our_command(folder / "data", ours, options.model, weights), folder)
            )
        _say_results(seconds, _largest_difference(theirs, ours))


def _write_weights(folder: Path, architecture: str) -> Path:
    """Write random weights with open_clip's names, and return the path of the file."""
    import torch
    from safetensors.torch import save_file

    from oneclip import zoo
    from oneclip.model import build_model

    torch.manual_seed(given.SEED)
    path = folder / f"{architecture}.safetensors"
    save_file(
        {
            name: tensor.contiguous()
            for name, tensor in build_model(zoo.architecture(architecture)).state_dict().items()
        },
        path,
    )
    return path


def _write(folder: Path, data_set: DataSet, jpegs: Sequence[bytes]) -> None:
    """Write a data set in CLIP_benchmark's layout."""
    from oneclip.evaluate.imagenet import TEMPLATES, class_names

    sys.path.append(str(ROOT / "tests"))
    from tars import tar

    (folder / "test").mkdir(parents=True)
    (folder / "dataset_type.txt").write_text(f"{data_set.kind}\n", encoding="utf-8")
    (folder / "test" / "nshards.txt").write_text(f"{SHARDS}\n", encoding="utf-8")
    if data_set.classes:
        prompts = [template.replace("{}", "{c}") for template in TEMPLATES[: data_set.prompts]]
        (folder / "classnames.txt").write_text("\n".join(class_names()[: data_set.classes]), encoding="utf-8")
        (folder / "zeroshot_classification_templates.txt").write_text("\n".join(prompts), encoding="utf-8")
    captions = given.captions(5 * len(jpegs))
    for shard in range(SHARDS):
        members: dict[str, bytes] = {}
        for number in range(shard, len(jpegs), SHARDS):
            members[f"s{number:07}.jpg"] = jpegs[number]
            suffix, content = _annotation(data_set, number, captions)
            members[f"s{number:07}.{suffix}"] = content
        (folder / "test" / f"{shard}.tar").write_bytes(tar(members))


def _annotation(data_set: DataSet, number: int, captions: Sequence[str]) -> tuple[str, bytes]:
    """Return the suffix and the content of an image's annotation."""
    if data_set.kind == "retrieval":
        return "txt", "\n".join(captions[5 * number : 5 * number + 5]).encode()
    if data_set.kind == "classification":
        return "cls", str(number % data_set.classes).encode()
    labels = np.zeros(data_set.classes, np.float32)
    labels[[number % data_set.classes, number * 7 % data_set.classes]] = 1
    stream = io.BytesIO()
    np.save(stream, labels)
    return "npy", stream.getvalue()


def _jpeg(image: photographs.Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _folder_name(data_set: DataSet) -> str:
    return f"wds_{data_set.name.replace('/', '-')}"


def _our_command(data: Path, out: Path, model: str, weights: Path) -> list[str]:
    sources = [part for one in DATA_SETS for part in ("--data", str(data / _folder_name(one)))]
    options = ["--compat", "--recall-k", "5", "--out", str(out), "--cache", str(out / "cache")]
    return [sys.executable, "-m", "oneclip", "evaluate", f"{model}:{weights}", *sources, *options]


def _their_command(data: Path, out: Path, model: str, weights: Path, workers: int) -> list[str]:
    out.mkdir()
    return [
        *(sys.executable, str(ROOT / "tests" / "parity" / "run_clip_benchmark.py"), "eval", "--no_amp"),
        *("--dataset", *(f"wds/{one.name}" for one in DATA_SETS)),
        *("--dataset_root", str(data / "wds_{dataset_cleaned}")),
        *("--model", model, "--pretrained", str(weights)),
        *("--output", str(out / "{dataset}.json"), "--num_workers", str(workers)),
    ]


def _run(command: Sequence[str], folder: Path) -> float:
    """Run a command in a temporary folder, and return its seconds."""
    paths = [str(ROOT / "src")] if "oneclip" in command else [str(CLIP_BENCHMARK), str(PACKAGES)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "ONECLIP_OFFLINE": "1"}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def _largest_difference(theirs: Path, ours: Path) -> float:
    """Return the largest difference of a metric that both wrote."""
    found = {json.loads(path.read_text())["dataset"]: path for path in ours.glob("*.json")}
    differences = []
    for path in theirs.glob("*.json"):
        expected = json.loads(path.read_text())
        metrics = json.loads(found[expected["dataset"]].read_text())["metrics"]
        differences += [
            abs(value - metrics[name]) for name, value in expected["metrics"].items() if value == value
        ]
    return max(differences)


def _say_results(seconds: dict[str, list[float]], difference: float) -> None:
    for name, times in seconds.items():
        given.say(f"{name:28} {statistics.median(times):7.1f} s   ({min(times):.1f} to {max(times):.1f})")
    best = min(
        (name for name in seconds if name != "oneclip"), key=lambda name: statistics.median(seconds[name])
    )
    ratios = [long / short for long, short in zip(seconds[best], seconds["oneclip"], strict=True)]
    given.say(f"oneclip is {statistics.median(ratios):.2f} times as fast as {best}")
    given.say(f"largest difference of a metric: {difference:.1g}")


if __name__ == "__main__":
    main()
