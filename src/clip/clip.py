"""`clip.clip`: load published models and tokenize texts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from clip.model import CLIP, build_model, convert_weights, from_config
from clip.simple_tokenizer import SimpleTokenizer as _Tokenizer
from clip.torchscript import scriptable
from oneclip import checkpoint, hub, zoo
from oneclip.config import PreprocessCfg
from oneclip.errors import CheckpointError, DownloadError, UnknownModelError
from oneclip.image import Preprocess

if TYPE_CHECKING:
    from torch import LongTensor

__all__ = ["available_models", "build_model", "load", "tokenize"]

CONTEXT_LENGTH = 77  # of all published models

_tokenizer = _Tokenizer()

_MODELS: dict[str, str] = {
    name: str(zoo.pretrained(architecture, "openai").url) for name, architecture in zoo.OPENAI_NAMES.items()
}


def __getattr__(name: str) -> Any:
    """Resolve `BICUBIC`: the filter of torchvision if it is installed, else that of Pillow."""
    if name != "BICUBIC":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from torchvision.transforms import InterpolationMode
    except (ImportError, RuntimeError):  # torchvision was built for another torch
        return Image.Resampling.BICUBIC
    return InterpolationMode.BICUBIC


def available_models() -> list[str]:
    """List the names of the published models, for `load`."""
    return list(_MODELS)


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    jit: bool = False,
    download_root: str | os.PathLike[str] | None = None,
) -> tuple[CLIP | torch.jit.ScriptModule, Preprocess]:
    """Load a model and its preprocessing.

    Args:
        name: one of `available_models()`, or the path of a checkpoint in OpenAI's format: a state dict or a TorchScript
            archive. The model gets QuickGELU.
        device: device of the model; None for the first CUDA device if there is one, else the CPU. The weights are fp32
            on the CPU; elsewhere they are fp16, with norms and embeddings in fp32.
        jit: return a TorchScript module of the model. It can be saved and accepts any batch size and text length.
        download_root: folder for downloaded models, `~/.cache/clip` by default.

    Returns:
        The model in evaluation mode, and the transform from a PIL image to its input.

    Raises:
        UnknownModelError: for a name that is neither a model nor a file.
        CheckpointError: for a file that is damaged, has another format, or was trained with another activation.
        DownloadError: if a model cannot be downloaded.
    """
    path = _resolve_file(name, download_root)
    found = checkpoint.read(path)
    _check_activation(found, path)
    cfg = checkpoint.infer_openai_config(found.state_dict)
    # OpenAI's package draws random weights before loading, except when it runs a TorchScript archive directly
    model = (
        checkpoint.build_uninitialized(cfg, from_config)
        if jit and found.format == "torchscript"
        else from_config(cfg)
    )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type != "cpu":
        convert_weights(model)
    checkpoint.load_into(model, found.state_dict, source=str(path))
    model = model.to(device).eval()
    return _script(model) if jit else model, _transform(model.visual.input_resolution)


def tokenize(
    texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH, truncate: bool = False
) -> LongTensor:
    """Convert texts to token ids.

    Args:
        texts: one text, or N texts.
        context_length: L, 77 for all published models.
        truncate: cut texts that are too long, and keep the end-of-text token.

    Returns:
        (N, L) int64, zero-padded after the end-of-text token.

    Raises:
        TextTooLongError: a RuntimeError that names the text, if one is too long and `truncate` is False.
    """
    return _tokenizer(texts, context_length, overflow="truncate" if truncate else "error")


def _download(url: str, root: str | os.PathLike[str] | None = None) -> str:
    """Download a file, unless it is cached. The last folder of its URL must be its sha256."""
    digest = re.fullmatch(r".*/([0-9a-fA-F]{64})/[^/]+", url)
    if digest is None:
        raise DownloadError(
            f"{url} does not contain the sha256 of the file, so the download cannot be verified"
        )
    return str(hub.download(url, root or hub.cache_folder(), sha256=digest[1]))


def _transform(n_px: int) -> Preprocess:
    """Make the transform from a PIL image to a (3, n_px, n_px) tensor."""
    return Preprocess(PreprocessCfg(size=n_px))


def _convert_image_to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _resolve_file(name: str | os.PathLike[str], download_root: str | os.PathLike[str] | None) -> Path:
    """Return the file for a name; published models are downloaded."""
    if name in _MODELS:
        return Path(_download(_MODELS[str(name)], download_root))
    path = Path(name).expanduser()
    if not path.is_file():
        hint = f"It is not a file either. Available models: {', '.join(_MODELS)}."
        raise UnknownModelError(os.fspath(name), _MODELS, hint=hint)
    return path


def _check_activation(found: checkpoint.Checkpoint, path: Path) -> None:
    """Raise CheckpointError if the metadata of a file says that it was not trained with QuickGELU."""
    cfg = found.metadata.get("model_cfg")
    if found.metadata.get("activation") == "gelu" or (isinstance(cfg, dict) and not cfg.get("quick_gelu")):
        raise CheckpointError(
            f"{path} was trained with GELU according to its metadata, but clip.load builds models with QuickGELU; "
            "use oneclip.load instead"
        )


def _script(model: CLIP) -> torch.jit.ScriptModule:
    script: torch.jit.ScriptModule = torch.jit.script(scriptable(model))
    script.dtype = model.dtype
    return script
