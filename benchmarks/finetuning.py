"""What does pocket gain and forget when it is taught handwritten digits?

    python benchmarks/finetuning.py [--way full|lora|lit|last] [--epochs 10]

The digits are those of scikit-learn (Alpaydin & Kaynak 1998): 1,297 to learn, 500 held out, enlarged to 64 pixels. What
it could do before is its held-out sample of drawings.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from oneclip.train.finetune import FinetuneCfg, finetune, gained_and_forgotten

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
HELD_OUT = 500


def main() -> None:
    parser = argparse.ArgumentParser(description="What does pocket gain and forget?")
    parser.add_argument("--way", default="full")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_digits(folder)
        began = time.monotonic()
        result = finetune(
            FinetuneCfg(
                model="pocket",
                data=folder / "digits.csv",
                out=folder / "tuned",
                eval_data=folder / "held_out",
                templates="the digit {}",
                way=args.way,
                last=2 if args.way == "last" else None,
                epochs=args.epochs,
            )
        )
        seconds = time.monotonic() - began
    path = result.path
    assert path is not None
    print(f"way {args.way}, {args.epochs} epochs: {seconds:.0f} s")
    print("alpha   digits, top 1   drawings, mean recall@1")
    for point in path.points:
        mark = "   written" if point.alpha == path.chosen else ""
        print(f"{point.alpha:5.2f} {path.new(point):15.3f} {path.old(point):25.3f}{mark}")
    print("\n".join(gained_and_forgotten(path)))


def write_digits(folder: Path) -> None:
    """`digits.csv` with the pictures to learn, and a folder of classes of the held-out ones."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    held_out = set(np.random.default_rng(0).permutation(len(digits.target))[:HELD_OUT].tolist())
    with (folder / "digits.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["filepath", "caption"])
        for number, (pixels, target) in enumerate(zip(digits.images, digits.target, strict=True)):
            grey = (255 - pixels * 255 / 16).clip(0, 255).astype(np.uint8)
            picture = Image.fromarray(grey).resize((64, 64), Image.Resampling.BICUBIC)
            if number in held_out:
                place = folder / "held_out" / NAMES[target]
                place.mkdir(parents=True, exist_ok=True)
                picture.save(place / f"{number}.png")
            else:
                picture.save(folder / f"{number}.png")
                table.writerow([f"{number}.png", f"the digit {NAMES[target]}"])


if __name__ == "__main__":
    main()
