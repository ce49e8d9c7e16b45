"""Valid weight files and companion files of each format, and their readers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import small_towers
import torch
from safetensors.torch import save_file
from torch import nn

from oneclip import checkpoint, zoo
from oneclip.checkpoint.resolve import validate_config
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.model import build_model


@dataclass(frozen=True)
class Format:
    """Kind of file that is read.

    Attributes:
        write: sound files of it into an empty folder.
        read: what a user does with that folder or a file in it.
        files: those that are changed, as patterns.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    files: tuple[str, ...] = ("*",)


VISION = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32)
TEXT = CLIPTextCfg(context_length=9, vocab_size=60, width=16, heads=2, layers=1)
CFG = ModelCfg(16, VISION, TEXT)
PIXELS = PreprocessCfg(size=32)


def weights(cfg: ModelCfg = CFG) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = build_model(cfg).state_dict()
    return state


def file(name: str, write: Callable[[Path], object]) -> Format:
    """Make the format of a single weights file."""
    return Format(lambda folder: write(folder / name), lambda folder: checkpoint.read(folder / name), (name,))


def read_folder(folder: Path) -> None:
    """Read as `oneclip inspect` and then `oneclip.load` do."""
    checkpoint.resolve_evidence(
        checkpoint.gather_evidence(zoo.ModelSource(str(folder), "folder", path=folder), values=False)
    )
    checkpoint.load(folder, device="cpu")


def our_folder(folder: Path) -> None:
    content = {"model_cfg": CFG.to_dict(), "preprocess_cfg": PIXELS.to_dict()}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_file(weights(), folder / "open_clip_model.safetensors")


def transformers_folder(folder: Path) -> None:
    """Write a model in the format of transformers, with our export."""
    cfg = ModelCfg(16, VISION, CLIPTextCfg(width=16, heads=2, layers=1))
    checkpoint.convert(
        checkpoint.ConvertibleModel(weights(cfg), cfg, PIXELS), folder, "transformers", force=True
    )
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):  # CLIP's own, whose comparison is slow
        (folder / name).unlink(missing_ok=True)


def index(folder: Path) -> None:
    state = weights()
    parts = {"a.safetensors": list(state)[:5], "b.safetensors": list(state)[5:]}
    for name, of_part in parts.items():
        save_file({key: state[key] for key in of_part}, folder / name)
    where = {key: name for name, of_part in parts.items() for key in of_part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def state_of_a_training() -> dict[str, Any]:
    from oneclip.train.checkpointing.checkpoint import random_states

    state = weights()
    moments = {name: {"step": torch.tensor(2.0), "exp_avg": tensor} for name, tensor in state.items()}
    return {
        "state_dict": state,
        "loss_state_dict": {},
        "ema": state,
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "params": list(state)}]},
        "random": random_states(),
        **facts(),
    }


def facts() -> dict[str, Any]:
    description = {"model_cfg": CFG.to_dict(), "preprocess_cfg": PIXELS.to_dict()}
    return {
        "step": 2,
        "identity": {"seed": 1, "batch_size": 4},
        "evaluation": {"accuracy": 0.5},
        "scaler": {},
        "description": description,
    }


def training_file(folder: Path) -> None:
    from oneclip.train.checkpointing.checkpoint import write_checkpoint

    write_checkpoint(folder / "step_2.pt", state_of_a_training())


def resume(folder: Path) -> None:
    """Read as a training does with the latest checkpoint in its folder."""
    from oneclip.train.checkpointing.checkpoint import (
        latest_checkpoint,
        read_checkpoint,
        restore_random_states,
    )

    latest = latest_checkpoint(folder)
    if latest is not None:
        state = read_checkpoint(latest)
        checkpoint.load_into(checkpoint.build_uninitialized(CFG), state["state_dict"])
        restore_random_states(state["random"])


def processes(folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    state = state_of_a_training()
    tensors = {part: state[part] for part in ("state_dict", "ema", "loss_state_dict", "optimizer")}
    dcp.save(tensors, checkpoint_id=folder / "step_2", no_dist=True)
    (folder / "step_2" / "training.json").write_text(json.dumps(facts()))


def read_processes(folder: Path) -> None:
    from oneclip.checkpoint.readers.dcp import DistributedCheckpoint
    from oneclip.train.checkpointing.dcp import load_sharded

    checkpoint.load(folder / "step_2", device="cpu")
    table = DistributedCheckpoint(folder / "step_2")
    load_sharded(table, {"optimizer": {"param_groups": [{"lr": 0.0, "params": []}]}})


def text_tower(kind: str) -> Format:
    """Write the `config.json` of a text tower of transformers."""

    def read(folder: Path) -> None:
        cfg = CLIPTextCfg(
            hf_model_name=str(folder / kind),
            hf_model_pretrained=False,
            hf_proj_type="linear",
            hf_tokenizer_name="x",
        )
        model = ModelCfg(16, VISION, cfg)
        validate_config.check_cfg(model, folder)
        validate_config.check_size(model, 10**6, folder)
        checkpoint.build_uninitialized(model)

    return Format(lambda folder: small_towers.text_folder(kind, folder), read, ("*/config.json",))


def sentence_transformers(folder: Path) -> None:
    transformers_folder(folder)
    inner = folder / "0_CLIPModel"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file():
            path.rename(inner / path.name)
    modules = [
        {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


def script(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))), path)


def big_vision(path: Path) -> None:
    np.savez(path, **{name.replace(".", "/"): tensor.numpy() for name, tensor in weights().items()})


def formats() -> Iterator[tuple[str, Format]]:
    saved = {"epoch": 3, "state_dict": weights(), "args": {"lr": 0.1, "names": ["a", "b"]}}
    yield "torch.save", file("m.pt", lambda path: torch.save(saved, path))
    yield (
        "torch.save before 1.6",
        file("m.pt", lambda path: torch.save(saved, path, _use_new_zipfile_serialization=False)),
    )
    yield "TorchScript", file("m.pt", script)
    yield "safetensors", file("m.safetensors", lambda path: save_file(weights(), path))
    yield (
        "quantized",
        file("m.safetensors", lambda path: checkpoint.save_quantized(path, weights(), CFG, PIXELS)),
    )
    yield "NumPy weights", file("m.npz", big_vision)
    yield (
        "index of shards",
        Format(
            index,
            lambda folder: checkpoint.read(folder / "model.safetensors.index.json"),
            ("*.index.json", "a.safetensors"),
        ),
    )
    yield "open_clip's folder", Format(our_folder, read_folder, ("open_clip_config.json",))
    yield "transformers' CLIP", Format(transformers_folder, read_folder, ("*.json",))
    yield (
        "sentence-transformers",
        Format(sentence_transformers, read_folder, ("modules.json", "*/config.json")),
    )
    yield "text tower, BERT", text_tower("bert")
    yield "text tower, mT5", text_tower("mt5")
    yield "training, one process", Format(training_file, resume)
    yield (
        "training, several processes",
        Format(processes, read_processes, ("step_2/.metadata", "step_2/training.json", "step_2/*.distcp")),
    )
