"""`clip.clip`: names to models, captions to token ids."""

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
from oneclip import checkpoint, hub, zoo
from oneclip.config import PreprocessCfg
from oneclip.errors import CheckpointError, DownloadError, UnknownModelError
from oneclip.image import Preprocess

if TYPE_CHECKING:
    from torch import LongTensor

__all__ = ["available_models", "build_model", "load", "tokenize"]

CONTEXT_LENGTH = 77  # of all the models below

_tokenizer = _Tokenizer()

_MODELS: dict[str, str] = {
    name: str(zoo.pretrained(architecture, "openai").url) for name, architecture in zoo.OPENAI_NAMES.items()
}


def __getattr__(name: str) -> Any:
    """Import torchvision when its name for a filter is asked for; without it, that is Pillow's."""
    if name != "BICUBIC":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from torchvision.transforms import InterpolationMode
    except (ImportError, RuntimeError):  # a torchvision for another torch
        return Image.Resampling.BICUBIC
    return InterpolationMode.BICUBIC


def available_models() -> list[str]:
    """The names of the published models, which `load` takes."""
    return list(_MODELS)


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    jit: bool = False,
    download_root: str | os.PathLike[str] | None = None,
) -> tuple[CLIP | torch.jit.ScriptModule, Preprocess]:
    """Load a model and its preprocessing.

    Args:
        name: one of `available_models()`, or the path of a checkpoint of OpenAI's form: a state dict, or an archive as
            they are published. It is taken to have QuickGELU.
        device: where to put the model; the first CUDA device if there is one, else the CPU. The weights are fp32 on the
            CPU; elsewhere they are fp16, with norms and embeddings in fp32.
        jit: give a TorchScript module of the same model, which can be saved and takes other sizes of batch and lengths
            of captions.
        download_root: where published models are kept, `~/.cache/clip` by default.

    Returns:
        The model in evaluation mode, and the transform from a PIL image to its input.

    Raises:
        UnknownModelError: for a name that is neither a model nor a file.
        CheckpointError: for a file that is damaged, of another form, or trained with another activation.
        DownloadError: if a model cannot be fetched.
    """
    path = _find(name, download_root)
    found = checkpoint.read(path)
    _check_activation(found, path)
    cfg = checkpoint.infer_openai_config(found.state_dict)
    # OpenAI's code draws weights before it loads others, but not for an archive that it runs as it is
    model = (
        checkpoint.build_blank(cfg, from_config)
        if jit and found.format == "torchscript"
        else from_config(cfg)
    )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type != "cpu":
        convert_weights(model)
    checkpoint.load_into(model, found.state_dict, source=str(path))
    model = model.to(device).eval()
    return _scripted(model) if jit else model, _transform(model.visual.input_resolution)


def tokenize(
    texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH, truncate: bool = False
) -> LongTensor:
    """Turn captions into token ids.

    Args:
        texts: one caption, or N of them.
        context_length: L, 77 for all published models.
        truncate: cut what is too long and keep the end-of-text token.

    Returns:
        (N, L) int64, zeros after the end of the text.

    Raises:
        TextTooLongError: a RuntimeError that names the text, if it is too long and not truncated.
    """
    return _tokenizer(texts, context_length, overflow="truncate" if truncate else "error")


def _download(url: str, root: str | os.PathLike[str] | None = None) -> str:
    """Fetch a file whose URL has its sha256 as the folder, unless it is there already."""
    digest = re.fullmatch(r".*/([0-9a-fA-F]{64})/[^/]+", url)
    if digest is None:
        raise DownloadError(
            f"{url} does not carry the sha256 of its file, so what comes could not be checked"
        )
    return str(hub.download(url, root or hub.cache_folder(), sha256=digest[1]))


def _transform(n_px: int) -> Preprocess:
    """PIL image to (3, n_px, n_px) tensor."""
    return Preprocess(PreprocessCfg(size=n_px))


def _convert_image_to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _find(name: str | os.PathLike[str], download_root: str | os.PathLike[str] | None) -> Path:
    """The file that a name means, fetched if it is a published model's."""
    if name in _MODELS:
        return Path(_download(_MODELS[str(name)], download_root))
    path = Path(name).expanduser()
    if not path.is_file():
        hint = f"It is no file either. Available models: {', '.join(_MODELS)}."
        raise UnknownModelError(os.fspath(name), _MODELS, hint=hint)
    return path


def _check_activation(found: checkpoint.Checkpoint, path: Path) -> None:
    """Raise if a file says itself that it was not trained with QuickGELU."""
    cfg = found.metadata.get("model_cfg")
    if found.metadata.get("activation") == "gelu" or (isinstance(cfg, dict) and not cfg.get("quick_gelu")):
        raise CheckpointError(
            f"{path} says that it was trained with GELU, and the models of clip.load have QuickGELU: use oneclip.load"
        )


def _scripted(model: CLIP) -> torch.jit.ScriptModule:
    script: torch.jit.ScriptModule = torch.jit.script(model)
    script.dtype = model.dtype
    return script
