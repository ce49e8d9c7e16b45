"""Truncated files raise `CheckpointError`. Forged and mutated files are in `tests/mutations`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_cfg
from torch import Tensor, nn

from oneclip.checkpoint import load, read, save, save_quantized
from oneclip.config import CLIPTextCfg, PreprocessCfg
from oneclip.errors import CheckpointError
from oneclip.model import build_model


def small() -> tuple[Any, dict[str, Tensor]]:
    """Build a model of some tens of kilobytes."""
    torch.manual_seed(0)
    text = CLIPTextCfg(context_length=9, vocab_size=200, width=16, heads=2, layers=1)
    cfg = tiny_cfg(text_cfg=text)
    return cfg, build_model(cfg).state_dict()


def with_torch(folder: Path, **how: Any) -> Path:
    torch.save({"epoch": 1, "state_dict": small()[1]}, folder / "m.pt", **how)
    return folder / "m.pt"


def script(folder: Path) -> Path:
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))), folder / "m.pt")
    return folder / "m.pt"


def stored(folder: Path) -> Path:
    save_file(small()[1], folder / "m.safetensors")
    return folder / "m.safetensors"


def quantized(folder: Path) -> Path:
    cfg, state = small()
    save_quantized(folder / "m.safetensors", state, cfg, PreprocessCfg(size=32))
    return folder / "m.safetensors"


def arrays(folder: Path) -> Path:
    np.savez(folder / "m.npz", **{name: tensor.numpy() for name, tensor in small()[1].items()})
    return folder / "m.npz"


def sharded(folder: Path) -> Path:
    """Write an index and two shards; the second shard is truncated."""
    state = small()[1]
    names = list(state)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for shard, of_shard in parts.items():
        save_file({name: state[name] for name in of_shard}, folder / shard)
    weight_map = {name: shard for shard, of_shard in parts.items() for name in of_shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder / "b.safetensors"


def index(folder: Path) -> Path:
    sharded(folder)
    return folder / "model.safetensors.index.json"


def in_folder(folder: Path) -> Path:
    """Write a folder with a configuration; its weights are truncated."""
    cfg, state = small()
    content = {"model_cfg": cfg.to_dict(), "preprocess_cfg": {"size": 32}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save(folder / "open_clip_model.safetensors", state)
    return folder / "open_clip_model.safetensors"


def config(folder: Path) -> Path:
    in_folder(folder)
    return folder / "open_clip_config.json"


KINDS: dict[str, tuple[Callable[[Path], Path], int]] = {  # writer, and the bytes between two truncations
    "torch.save": (with_torch, 1024),
    "torch.save, old": (lambda folder: with_torch(folder, _use_new_zipfile_serialization=False), 1024),
    "TorchScript": (script, 1024),
    "safetensors": (stored, 1024),
    "quantized": (quantized, 1024),
    "NumPy": (arrays, 1024),
    "a shard": (sharded, 1024),
    "an index": (index, 64),
    "a folder's weights": (in_folder, 1024),
    "a folder's configuration": (config, 8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_a_checkpoint_error(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write, step = KINDS[kind]
    truncated = write(tmp_path)
    whole = truncated.read_bytes()
    lengths = range(0, len(whole), step)
    for length in lengths:
        truncated.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load(tmp_path) if (tmp_path / "open_clip_config.json").exists() else read(_target(truncated))
    assert len(lengths) > 20
    truncated.write_bytes(whole)
    load(tmp_path) if (tmp_path / "open_clip_config.json").exists() else read(_target(truncated))


def _target(path: Path) -> Path:
    """Return the path to read: the index, for a shard."""
    index_path = path.with_name("model.safetensors.index.json")
    return index_path if index_path.exists() else path


def test_lists_that_repeat_each_other_are_not_expanded(tmp_path: Path) -> None:
    value: list[Any] = [1]
    for _ in range(40):
        value = [value] * 10
    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(1)}, "log": value}, tmp_path / "m.pt")
    assert read(tmp_path / "m.pt").metadata == {"epoch": 3}


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "m.safetensors", tmp_path / "elsewhere" / "blob")
    os.symlink(tmp_path / "elsewhere" / "blob", tmp_path / "m.safetensors")
    assert read(tmp_path / "m.safetensors").format == "safetensors"
