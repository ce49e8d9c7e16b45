"""Write digests of open_clip_torch's architectures: names and shapes, and settings that shapes do not show.

    PYTHONPATH=.parity/packages python tests/parity/architecture_digests.py > tests/model/architecture_digests.json

Run once; `tests/model/test_architectures.py` holds ours to it. The published package fetches the configurations of
Hugging Face text towers; here it gets them from our zoo, as transformers reads them. Names and shapes are those of the
timm and the transformers in `constraints.txt`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]


def digest(lines: Iterable[str]) -> str:
    """Return the digest of lines, independent of their order."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def shapes(model: nn.Module) -> Iterator[str]:
    """List names and shapes of a state dict."""
    for name, tensor in model.state_dict().items():
        yield f"{name} {list(tensor.shape)}"


def settings(model: nn.Module) -> Iterator[str]:
    """List settings that change outputs but not shapes: kinds of GELU, epsilon of norms, numbers of heads."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in ("GELU", "GELUTanh", "QuickGELU"):
            yield f"{name} {'tanh' if kind == 'GELUTanh' else getattr(module, 'approximate', 'quick')}"
        if isinstance(getattr(module, "eps", None), float):
            yield f"{name} eps {module.eps}"
        if isinstance(getattr(module, "num_heads", None), int):
            yield f"{name} heads {module.num_heads}"


def main() -> None:
    import reference

    sys.path += [str(ROOT / "tests"), str(ROOT / "src")]  # behind the published packages
    reference.prepare()
    import open_clip

    without_network(open_clip)
    digests = {}
    for name in open_clip.list_models():
        cfg = open_clip.get_model_config(name)
        cfg["text_cfg"]["hf_model_pretrained"] = False
        is_custom = cfg.pop("custom_text", False) or "hf_model_name" in cfg["text_cfg"]
        dual = open_clip.CustomTextCLIP if is_custom else open_clip.CLIP
        kind = open_clip.CoCa if "multimodal_cfg" in cfg else dual
        with torch.device("meta"):
            model = kind(**cfg)
        digests[name] = [digest(shapes(model)), digest(settings(model))]
    print(json.dumps(digests, indent=0, sort_keys=True))


def without_network(package: Any) -> None:
    """Serve configurations of Hugging Face models from our zoo to the published package, without a network."""
    from oneclip import zoo
    from oneclip.model.hf_config import config_from

    class Configurations:
        @staticmethod
        def from_pretrained(name: str) -> Any:
            known = zoo.text_tower(name)
            assert known is not None, name
            return config_from(known)

    package.hf_model.AutoConfig = Configurations


if __name__ == "__main__":
    main()
