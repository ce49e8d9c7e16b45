"""Tensors to a file that is either whole or not there."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from oneclip.checkpoint.quantize import quantised
from oneclip.checkpoint.readers.read import METADATA_KEY
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import OneCLIPError, OutputError


def save(
    path: str | os.PathLike[str], state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write tensors; a file that was there is replaced only by a whole one.

    Args:
        path: its suffix says how: `.safetensors`, or `.pt`, `.pth` or `.bin` for `torch.save`.
        state_dict: tensors by name.
        metadata: what else to keep: `model_cfg` and `preprocess_cfg` as dicts make the file one that says
            what it is. Anything that JSON can hold.

    Raises:
        OutputError: if it cannot be written; what stood there before is untouched.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    try:
        extra = json.dumps(dict(metadata or {}), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise OutputError(
            f"{path} was not written: the metadata is nothing that JSON can hold ({error})"
        ) from error
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        with replacing(path) as temporary:
            save_file(_unshared(tensors), temporary, {"format": "pt", METADATA_KEY: extra})
    elif path.suffix in (".pt", ".pth", ".bin"):
        content = {"state_dict": tensors, METADATA_KEY: json.loads(extra)} if metadata else tensors
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    else:
        raise OutputError(f"{path} was not written: its name must end in .safetensors, .pt, .pth or .bin")


def write_quantised(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    model_cfg: ModelCfg,
    preprocess_cfg: PreprocessCfg,
    *,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write a model that says what it is, in as little space as it works with: see `quantise`.

    Args:
        path: a `.safetensors` file.
        state_dict: of the model.
        model_cfg: what it was built of.
        preprocess_cfg: how a picture becomes a tensor for it.
        card: what else belongs with it: sources, licences, figures. Anything that JSON can hold.

    Raises:
        CheckpointError: if a value does not fit into 16 bits.
        OutputError: if the file cannot be written; what stood there before is untouched.
    """
    metadata = {"model_cfg": model_cfg.to_dict(), "preprocess_cfg": preprocess_cfg.to_dict()}
    save(path, quantised(state_dict), metadata | ({"card": dict(card)} if card else {}))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to, and put what was written there in the place of a file, at once and for good.

    Raises:
        OutputError: if writing fails, whatever the writer calls it; what stood there before is untouched.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch()
        mode = (target if target.exists() else temporary).stat().st_mode & 0o7777
        yield temporary
        temporary.chmod(mode)  # some writers make a file that only its owner may read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OneCLIPError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        disk = error if isinstance(error, OSError) else error.__context__  # PyTorch hides it
        why = getattr(disk, "strerror", None) or str(error).partition("\n")[0]
        raise OutputError(f"{path} could not be written: {why}. Nothing that was there is lost") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none sharing its memory with another: safetensors has no way to say so."""
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if address in seen and tensor.numel() else tensor
        seen.add(address)
    return own


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)
