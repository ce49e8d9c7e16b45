"""Learn scikit-learn's digits with pocket, which was not trained on them.

python examples/digits.py digits

Writes the 1,797 images to a folder: the first half to learn from, the other to measure on. Needs scikit-learn.
"""

import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

from oneclip.evaluate import evaluate
from oneclip.evaluate.scoring import TaskOptions

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

if len(sys.argv) != 2:
    sys.exit(__doc__)
folder = Path(sys.argv[1])
digits = load_digits()
for row, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
    place = folder / ("train" if row < len(digits.target) // 2 else "test") / NAMES[label]
    place.mkdir(parents=True, exist_ok=True)
    dark_on_white = (255 - image / 16 * 255).astype("uint8")  # as in the drawings that pocket knows
    Image.fromarray(dark_on_white).save(place / f"{row:04}.png")

for task, method in (("linear-probe", "linear"), ("few-shot", "linear"), ("few-shot", "tip-adapter")):
    options = TaskOptions(shots=(1, 2, 5, 16), method=method)
    score = evaluate("pocket", folder, task=task, options=options, templates=["the number {}"]).score
    for name, (low, high) in score.intervals.items():
        print(f"{task} {method:12} {name:25} {score.metrics[name]:.3f} [{low:.3f}, {high:.3f}]")
