"""Run CLIP_benchmark's command line, or prepare an import of its modules.

PYTHONPATH=.parity/clip_benchmark:.parity/packages python tests/parity/run_clip_benchmark.py eval --no_amp ...
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

CAPTION_SCORES = {
    "tokenizer.ptbtokenizer": "PTBTokenizer",
    "bleu.bleu": "Bleu",
    "meteor.meteor": "Meteor",
    "rouge.rouge": "Rouge",
    "cider.cider": "Cider",
    "spice.spice": "Spice",
}


def prepare() -> None:
    """Make the package importable without pycocoevalcap, which only its captioning uses, and with a CPU-only torch."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from torchvision_stub import import_torchvision

    import_torchvision("torchvision.datasets")
    for path, name in CAPTION_SCORES.items():
        parts = ["pycocoevalcap", *path.split(".")]
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(parts[-1]))
        setattr(sys.modules[".".join(parts)], name, object)


if __name__ == "__main__":
    prepare()
    from clip_benchmark.cli import main

    main()
