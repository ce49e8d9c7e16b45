"""Run the published training scripts on the `open_clip` of the path; both sides of a comparison run this file.

    PYTHONPATH=... python tests/parity/train_runs.py FOLDER

It writes FOLDER/results.json: for each run its losses, how far its parameters went, and what was measured.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIZE = 32
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {"image_size": SIZE, "patch_size": 16, "layers": 2, "width": 32, "head_width": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-ViT": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-RN": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 8},
        "text_cfg": TEXT,
    },
    "coca_tiny-ViT": {
        "embed_dim": 32,
        "custom_text": True,
        "multimodal_cfg": {**TEXT, "context_length": 76, "attn_pooler_heads": 2},
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
    },
}
CAPTIONS = [
    "a red square",
    "a blue square with a long caption",
    "green",
    "an image of grey",
    "black, and more",
    "x",
]

COMMON = "--device cpu --workers 0 --batch-size 4 --epochs 1 --warmup 1 --lr 1e-2 --seed 3"
COMMON += " --save-most-recent --precision fp32"
CSV = "--dataset-type csv --csv-separator , --csv-img-key file --csv-caption-key text --train-data {data}/train.csv"
RUNS = {
    "softmax": f"--model tiny-ViT {CSV} --val-data {{data}}/train.csv --grad-clip-norm 1.0",
    "resumed": f"--model tiny-ViT {CSV} --name softmax --resume latest --epochs 2",
    "synthetic": "--model tiny-ViT --dataset-type synthetic --train-num-samples 8 --force-quick-gelu "
    "--force-patch-dropout 0.5 "
    "--aug-cfg scale=(0.5,1.0) color_jitter=(0.4,0.4,0.4,0.1) color_jitter_prob=0.8 gray_scale_prob=0.2",
    "sigmoid": f"--model tiny-ViT {CSV} --siglip --precision amp_bf16 --force-custom-text --lock-image "
    "--lock-image-unlocked-groups 1",
    "bf16": f"--model tiny-ViT {CSV} --precision bf16 --accum-freq 3 --batch-size 2 --grad-checkpointing "
    "--lr-scheduler const",
    "amp": f"--model tiny-ViT {CSV} --precision amp --force-image-size 48 --force-context-length 40",
    "resnet": f"--model tiny-RN {CSV} --lock-image --lock-image-freeze-bn-stats --lr-scheduler const",
    "tar": "--model tiny-ViT --dataset-type webdataset --train-data {data}/train.tar --train-num-samples 4 "
    "--opt timm/adamw --eps 1e-6 --lock-text --lock-text-unlocked-layers 1 "
    "--lock-text-freeze-layer-norm",
    "distilled": f"--model tiny-ViT {CSV} --distill-model tiny-ViT --distill-pretrained {{data}}/tiny-ViT.pt",
    "captions": f"--model coca_tiny-ViT {CSV}",
    "compiled": f"--model tiny-ViT {CSV} --torchscript",
}
EVALUATIONS = {
    "zero-shot": "--model tiny-ViT --imagenet-val {data}/imagenet --zeroshot-frequency 1",
    "traced": "--model tiny-RN --dataset-type csv --csv-separator , --csv-img-key file --csv-caption-key text "
    "--val-data {data}/train.csv --trace",
}


def main(folder: str) -> None:
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from torchvision_stub import declare_operators

    declare_operators()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    os.chdir(folder)
    data = Path(folder) / "data"
    write(data)

    import open_clip_train.main
    import open_clip_train.zero_shot

    import open_clip

    open_clip_train.zero_shot.accuracy = accuracy
    prompts = open_clip_train.zero_shot.OPENAI_IMAGENET_TEMPLATES
    open_clip_train.zero_shot.OPENAI_IMAGENET_TEMPLATES = prompts[:2]  # 2 of 80, to save time
    open_clip.add_model_config(data / "configs")
    start_weights(open_clip, data)
    results = {}
    for name, words in {**RUNS, **EVALUATIONS}.items():
        logs = Path(folder) / "logs"
        given = f"{COMMON} --logs {logs} --name {name} {words}".format(data=data).split()
        model = given[given.index("--model") + 1]
        given += ["--pretrained", str(data / f"{model}.pt")]
        random.seed(0)
        try:
            open_clip_train.main.main(given)
            results[name] = outcome(
                logs / given[len(given) - given[::-1].index("--name")], data / f"{model}.pt"
            )
        except Exception as error:
            results[name] = {"raised": f"{type(error).__name__}: {error}"}
            logging.exception(name)
        logging.root.handlers.clear()
    Path(folder, "results.json").write_text(json.dumps(results))


def accuracy(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...] = (1,)) -> list[float]:
    """Replace a conversion in the scripts that NumPy 2.4 and later rejects."""
    ranked = output.topk(max(topk), 1).indices
    return [float((ranked[:, :k] == target[:, None]).sum()) for k in topk]


def outcome(log: Path, start: Path) -> dict[str, Any]:
    """Return the change of each parameter, and the metrics of the run."""
    lines = (log / "out.log").read_text()
    found: dict[str, Any] = {"losses": [float(loss) for loss in re.findall(r" Loss: (\S+)", lines)]}
    latest = log / "checkpoints" / "epoch_latest.pt"
    if latest.is_file():
        before = torch.load(start, weights_only=True)
        after = torch.load(latest, weights_only=True)
        found["epoch"] = after["epoch"]
        found["names"] = {
            name: [str(value.dtype), *value.shape] for name, value in after["state_dict"].items()
        }
        found["moved"] = sum(
            (value.double() - before[name].double()).norm().item()
            for name, value in after["state_dict"].items()
            if name in before and value.shape == before[name].shape
        )
    measured = log / "checkpoints" / "results.jsonl"
    if measured.is_file():
        found["measured"] = json.loads(measured.read_text().splitlines()[-1])
    return found


def start_weights(package: Any, data: Path) -> None:
    """Write random weights, the same on both sides."""
    from parity_weights import fill

    for name in CONFIGS:
        try:
            model = package.create_model(name)
        except Exception:
            logging.exception(name)
            continue
        fill(model)
        with torch.no_grad():
            model.logit_scale.fill_(2.0)
        torch.save(model.state_dict(), data / f"{name}.pt")


def write(data: Path) -> None:
    """Write configurations, image-text pairs as a table and a tar file, and two classes of ImageNet."""
    (data / "configs").mkdir(parents=True)
    for name, cfg in CONFIGS.items():
        (data / "configs" / f"{name}.json").write_text(json.dumps(cfg))
    images = [noise(seed) for seed in range(len(CAPTIONS))]
    rows = ["file,text"]
    with tarfile.open(data / "train.tar", "w") as tar:
        for number, (image, caption) in enumerate(zip(images, CAPTIONS, strict=True)):
            image.save(data / f"{number}.png")
            rows.append(f'{data / f"{number}.png"},"{caption}"')
            for suffix, content in (
                ("png", (data / f"{number}.png").read_bytes()),
                ("txt", caption.encode()),
            ):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, BytesIO(content))
    (data / "train.csv").write_text("\n".join(rows) + "\n")
    for label, name in enumerate(("n01440764", "n01443537")):
        (data / "imagenet" / name).mkdir(parents=True)
        for number in range(2):
            noise(10 + 2 * label + number).save(data / "imagenet" / name / f"{number}.png")


def noise(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((48, 40), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main(sys.argv[1])
