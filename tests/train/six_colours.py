"""Six images of one colour each, a table of them, and the command that trains a model on them."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

COLOURS = {
    "red": "red",
    "lime": "green",
    "blue": "blue",
    "yellow": "yellow",
    "black": "black",
    "white": "white",
}
CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16},
        "text_cfg": {"width": 16, "heads": 2, "layers": 1, "context_length": 16},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


def write_colours(folder: Path) -> Path:
    """A folder with six images of one colour each, a table of them, and the configuration of a model."""
    (folder / "pictures").mkdir()
    rows = ["filepath,caption"]
    for colour, word in COLOURS.items():
        Image.new("RGB", (20, 16), colour).save(folder / "pictures" / f"{colour}.png")
        rows.append(f"{colour}.png,something {word}")
    (folder / "pairs.csv").write_text("\n".join(rows))
    (folder / "model.json").write_text(json.dumps(CONFIG))
    return folder


def arguments(data: Path, *more: str) -> list[str]:
    paths = [
        "--data",
        str(data / "pairs.csv"),
        "--images",
        str(data / "pictures"),
        "--out",
        str(data / "run"),
    ]
    return [
        "train",
        *paths,
        "--model",
        str(data / "model.json"),
        "--batch-size",
        "6",
        "--log-every",
        "1",
        *more,
    ]


def logged(data: Path, key: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (data / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]
