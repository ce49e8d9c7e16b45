"""What does pocket gain and forget when it is fine-tuned on handwritten digits?

    python benchmarks/finetuning.py [--method full|lora|lit|last] [--epochs 10]

The digits are those of scikit-learn (Alpaydin & Kaynak 1998): 1,297 for training and 500 held out, enlarged to 64
pixels. The reference task is the held-out sample of drawings.
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
    parser.add_argument("--method", default="full")
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
                method=args.method,
                last=2 if args.method == "last" else None,
                epochs=args.epochs,
            )
        )
        seconds = time.monotonic() - began
    sweep = result.sweep
    assert sweep is not None
    print(f"method {args.method}, {args.epochs} epochs: {seconds:.0f} s")
    print("alpha   digits, top 1   drawings, mean recall@1")
    for point in sweep.points:
        mark = "   written" if point.alpha == sweep.chosen else ""
        print(f"{point.alpha:5.2f} {sweep.new_score(point):15.3f} {sweep.reference_score(point):25.3f}{mark}")
    print("\n".join(gained_and_forgotten(sweep)))


def write_digits(folder: Path) -> None:
    """Write `digits.csv` with training images, and a class folder of held-out images."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    held_out = set(np.random.default_rng(0).permutation(len(digits.target))[:HELD_OUT].tolist())
    with (folder / "digits.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["filepath", "caption"])
        for number, (pixels, target) in enumerate(zip(digits.images, digits.target, strict=True)):
            grey = (255 - pixels * 255 / 16).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(grey).resize((64, 64), Image.Resampling.BICUBIC)
            if number in held_out:
                place = folder / "held_out" / NAMES[target]
                place.mkdir(parents=True, exist_ok=True)
                image.save(place / f"{number}.png")
            else:
                image.save(folder / f"{number}.png")
                table.writerow([f"{number}.png", f"the digit {NAMES[target]}"])


if __name__ == "__main__":
    main()
