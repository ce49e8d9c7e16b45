"""Run CLIP_benchmark's command line, or prepare an import of its modules.

PYTHONPATH=.parity/clip_benchmark:.parity/packages python tests/parity/run_clip_benchmark.py eval --no_amp ...
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

CAPTION_SCORES = {
    "tokenizer.ptbtokenizer": "PTBTokenizer",
    "bleu.bleu": "Bleu",
    "meteor.meteor": "Meteor",
    "rouge.rouge": "Rouge",
    "cider.cider": "Cider",
    "spice.spice": "Spice",
}


def prepare() -> None:
    """Make the package run without pycocoevalcap, which only its captioning uses, and with current torch and NumPy."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from torchvision_stub import import_torchvision

    import_torchvision("torchvision.datasets")
    for path, name in CAPTION_SCORES.items():
        parts = ["pycocoevalcap", *path.split(".")]
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(parts[-1]))
        setattr(sys.modules[".".join(parts)], name, object)
    from clip_benchmark.metrics import zeroshot_classification

    vars(zeroshot_classification)["float"] = to_float  # computes the accuracy of all tasks


def to_float(value: Any) -> float:
    """Convert a number, string or array of one element, which NumPy no longer converts itself."""
    return float(value.item() if isinstance(value, np.ndarray) else value)


if __name__ == "__main__":
    prepare()
    from clip_benchmark.cli import main

    main()
