"""Write files like those of programs around open_clip_torch, and its outputs with them."""

from pathlib import Path
from typing import Any

import torch

EMBED_DIM, PIXELS = 24, 32
TOY = "<toy>"
TEXTS = ["a <toy> cat", "a <toy> dog in the big park", "no toy"]
PREFIXES = {"net": "", "Lightning": "clip_model.", "named": "backbone."}  # prefixes of wrapped files, by name


def write_all(open_clip: Any, folder: Path) -> dict[str, Any]:
    """Write the files, and return the outputs of models with their weights."""
    folder.mkdir()
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, PIXELS, PIXELS)
    return {
        "pixels": pixels,
        "heads": heads(open_clip, folder, pixels),
        "added tokens": added_tokens(open_clip, folder, pixels),
        "Long-CLIP": long_clip(open_clip, folder, pixels),
        "wrapped": wrapped(open_clip, folder, pixels),
    }


def heads(open_clip: Any, folder: Path, pixels: torch.Tensor) -> dict[str, Any]:
    """Write a bare state dict of a model whose heads are 80 and 16 wide."""
    model = build(open_clip, vision={"width": 160, "head_width": 80}, text={"width": 64, "heads": 4})
    torch.save(model.state_dict(), folder / "heads.pt")
    return features(model, pixels, rows(open_clip))


def added_tokens(open_clip: Any, folder: Path, pixels: torch.Tensor) -> dict[str, Any]:
    """Write a model with an added token after the end-of-text id; it pools at the end of text."""
    model = build(open_clip, text={"vocab_size": 49409, "pool_type": "eos", "eos_id": 49407})
    torch.save(model.state_dict(), folder / "added.pt")
    tokenizer = open_clip.SimpleTokenizer(context_length=16, additional_special_tokens=[TOY])
    return features(model, pixels, tokenizer(TEXTS))


def long_clip(open_clip: Any, folder: Path, pixels: torch.Tensor) -> dict[str, Any]:
    """Write positions in two tables, with different values in rows that Long-CLIP does not read."""
    model = build(open_clip, text={"context_length": 248}, quick_gelu=True)
    state, noise = dict(model.state_dict()), torch.randn(248, 64)
    behind = torch.arange(248)[:, None] >= 20
    positions = state["positional_embedding"]
    state["positional_embedding"] = torch.where(behind, noise, positions)
    state["positional_embedding_res"] = torch.where(behind, positions, noise)
    torch.save(state, folder / "longclip.pt")
    ids = open_clip.SimpleTokenizer(context_length=248)(["a cat", "a long text about dogs " * 40])
    return features(model, pixels, ids)


def wrapped(open_clip: Any, folder: Path, pixels: torch.Tensor) -> dict[str, Any]:
    """Write one model in several kinds of files."""
    model = build(open_clip)
    state = model.state_dict()
    torch.save({"net": state, "optimizer": {"lr": 0.1}, "step": 3}, folder / "net.pt")
    head = {"classifier.weight": torch.randn(5, EMBED_DIM), "classifier.bias": torch.zeros(5)}
    module = {f"clip_model.{name}": tensor for name, tensor in state.items()} | head
    torch.save(
        {"state_dict": module, "pytorch-lightning_version": "2.2.0", "epoch": 1}, folder / "Lightning.pt"
    )
    other = build(open_clip).state_dict()
    both = {
        f"{prefix}.{name}": t
        for prefix, s in (("backbone", state), ("teacher", other))
        for name, t in s.items()
    }
    torch.save(both, folder / "named.pt")
    torch.save(state | head, folder / "beside.pt")
    return features(model, pixels, rows(open_clip))


def build(open_clip: Any, vision: Any = None, text: Any = None, **options: Any) -> Any:
    vision = {"image_size": PIXELS, "layers": 2, "width": 64, "patch_size": 8} | (vision or {})
    text = {"context_length": 16, "width": 64, "heads": 1, "layers": 2} | (text or {})
    return open_clip.CLIP(
        EMBED_DIM, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text), **options
    ).eval()


def rows(open_clip: Any) -> torch.Tensor:
    ids: torch.Tensor = open_clip.SimpleTokenizer(context_length=16)(["a cat", "a big dog in the park"])
    return ids


def features(model: Any, pixels: torch.Tensor, ids: torch.Tensor) -> dict[str, Any]:
    with torch.inference_mode():
        return {"ids": ids, "image": model.encode_image(pixels), "text": model.encode_text(ids)}
