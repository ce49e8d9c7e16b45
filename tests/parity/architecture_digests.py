"""Write down the state dicts of open_clip_torch's architectures, as digests of their names and shapes.

    PYTHONPATH=.parity/packages python tests/parity/architecture_digests.py > tests/model/architecture_digests.json

Run once; `tests/model/test_architectures.py` holds ours to it. Of architectures with a visual tower of timm's, and of
CoCa, only the text tower is written down (`NAME text`); text towers of transformers' are left out.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def digest(state_dict: Mapping[str, Tensor]) -> str:
    """Of the names and shapes, whatever their order."""
    lines = sorted(f"{name} {list(tensor.shape)}" for name, tensor in state_dict.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def main() -> None:
    import reference

    sys.path.append(str(Path(__file__).resolve().parents[1]))
    reference.prepare()
    import open_clip

    digests = {}
    for name in open_clip.list_models():
        cfg = open_clip.get_model_config(name)
        if cfg["text_cfg"].get("hf_model_name"):
            continue
        with torch.device("meta"):
            if cfg["vision_cfg"].get("timm_model_name") or "multimodal_cfg" in cfg:
                text = open_clip.model._build_text_tower(
                    cfg["embed_dim"], cfg["text_cfg"], cfg.get("quick_gelu", False)
                )
                digests[f"{name} text"] = digest(text.state_dict())
            else:
                kind = open_clip.CustomTextCLIP if cfg.pop("custom_text", False) else open_clip.CLIP
                digests[name] = digest(kind(**cfg).state_dict())
    print(json.dumps(digests, indent=0, sort_keys=True))


if __name__ == "__main__":
    main()
