"""Read our exported files with the published packages, in a process with those first on the path.

PYTHONPATH=.parity/packages python tests/parity/read_formats.py folder
"""

import sys
from pathlib import Path
from typing import Any

import torch
from install import PACKAGES
from reference import HERE, prepare


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    sys.path.append(str(HERE.parent))
    prepare()
    import clip
    import open_clip

    for package in (clip, open_clip):
        if PACKAGES not in Path(str(package.__file__)).parents:
            raise SystemExit(
                f"{package.__name__} was imported from {package.__file__}, not the published one"
            )
    pixels, ids = torch.load(folder / "inputs.pt", weights_only=True)
    seen = {}
    for target in sorted(folder.iterdir()):
        if target.is_dir():
            model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{target}")
            seen[target.name] = features(model.eval(), pixels, ids) | {"preprocess": str(preprocess)}
        elif target.name.startswith("openai"):
            model, _ = clip.load(str(target), device="cpu")
            seen[target.name] = features(model.eval(), pixels, ids)
    torch.save(seen, folder / "seen.pt")


def features(model: Any, pixels: torch.Tensor, ids: torch.Tensor) -> dict[str, Any]:
    with torch.inference_mode():
        return {"image": model.encode_image(pixels), "text": model.encode_text(ids)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
