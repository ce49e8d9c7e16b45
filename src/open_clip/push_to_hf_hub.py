"""`open_clip.push_to_hf_hub`: upload a model to the Hugging Face hub."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from oneclip import checkpoint
from oneclip.checkpoint.formats.clip_tokenizer import write_clip_tokenizer
from oneclip.errors import OutputError
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.factory import create_model_from_pretrained, get_model_config, get_tokenizer
from open_clip.model import get_model_preprocess_cfg
from open_clip.overrides import OVERRIDES, apply_overrides
from open_clip.pretrained import _has_hf_hub, _has_safetensors
from open_clip.sources import resolve_model
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SigLipTokenizer

__all__ = ["push_pretrained_to_hf_hub", "push_to_hf_hub"]

PREPROCESS_FIELDS = ("mean", "std", "interpolation", "resize_mode", "fill_color", "background")


def push_to_hf_hub(
    model: nn.Module,
    tokenizer: Any,
    model_config: dict[str, Any] | None,
    repo_id: str,
    commit_message: str = "Add model",
    token: str | None = None,
    revision: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    model_card: dict[str, Any] | None = None,
    safe_serialization: bool | str = "both",
) -> Any:
    """Upload a model to a repository of the hub, which is created if it does not exist.

    Args:
        model: with its weights and, from `create_model`, its preprocessing.
        tokenizer: the tokenizer of the model; its files are uploaded too.
        model_config: configuration of the model, as returned by `get_model_config`.
        repo_id: "owner/name".
        commit_message: message of the commit.
        token: access token with write permission; None for that of `hf auth login` or `HF_TOKEN`.
        revision: a branch.
        private: make a new repository private.
        create_pr: open a pull request instead of committing.
        model_card: content of the README, see `generate_readme`; an existing README is kept.
        safe_serialization: True for safetensors, False for a PyTorch file, "both" for both.

    Returns:
        The commit (`huggingface_hub.CommitInfo`).

    Raises:
        OutputError: if the hub rejects the upload.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token, library_name="open_clip")
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            save_for_hf(model, tokenizer, model_config, folder, safe_serialization)
            if not api.file_exists(repo_id, "README.md", revision=revision):
                readme = generate_readme(model_card or {}, repo_id.rpartition("/")[2])
                Path(folder, "README.md").write_text(readme, encoding="utf-8")
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message,
            )
    except HfHubHTTPError as error:
        raise OutputError(
            f"cannot write to {repo_id}: {error}. Log in with `hf auth login`, or pass token=, for an account with "
            "write access"
        ) from error


def push_pretrained_to_hf_hub(
    model_name: str,
    pretrained: str,
    repo_id: str,
    precision: str = "fp32",
    image_mean: tuple[float, ...] | None = None,
    image_std: tuple[float, ...] | None = None,
    image_interpolation: str | None = None,
    image_resize_mode: str | None = None,
    commit_message: str = "Add model",
    token: str | None = None,
    revision: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    model_card: dict[str, Any] | None = None,
    hf_tokenizer_self: bool = False,
    **kwargs: Any,
) -> Any:
    """Upload the model of `create_model_from_pretrained`, with the configuration of its weights.

    Args:
        hf_tokenizer_self: set the tokenizer in the configuration to that of the new repository.
        kwargs: arguments of `create_model_from_pretrained`.

    Other arguments, return value and errors are those of the two functions.
    """
    model, _ = create_model_from_pretrained(  # type: ignore[misc]
        model_name,
        pretrained=pretrained,
        precision=precision,
        image_mean=image_mean,
        image_std=image_std,
        image_interpolation=image_interpolation,
        image_resize_mode=image_resize_mode,
        **kwargs,
    )
    found = resolve_model(model_name, pretrained, kwargs.get("cache_dir"))
    model_config = apply_overrides(
        found.model_cfg, {name: value for name, value in kwargs.items() if name in OVERRIDES}
    )
    if hf_tokenizer_self:
        model_config["text_cfg"]["hf_tokenizer_name"] = repo_id
    return push_to_hf_hub(
        model,
        get_tokenizer(model_name),
        model_config,
        repo_id,
        commit_message=commit_message,
        token=token,
        revision=revision,
        private=private,
        create_pr=create_pr,
        model_card=model_card,
    )


def save_for_hf(
    model: nn.Module,
    tokenizer: Any,
    model_config: Mapping[str, Any] | None,
    save_directory: str | os.PathLike[str],
    safe_serialization: bool | str = "both",
    skip_weights: bool = False,
) -> None:
    """Write the files of a repository to a folder; arguments as for `push_to_hf_hub`.

    The weights also contain the configurations, so that the file can be loaded outside the folder.
    """
    folder = Path(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    if not skip_weights:
        tensors, metadata = model.state_dict(), _configs(model, model_config) if model_config else None
        if safe_serialization in (True, "both"):
            checkpoint.save(folder / HF_SAFE_WEIGHTS_NAME, tensors, metadata)
        if safe_serialization in (False, "both"):
            checkpoint.save(folder / HF_WEIGHTS_NAME, tensors, metadata)
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
    else:  # CLIP's tokenizer, in the formats that other libraries read
        write_clip_tokenizer(folder, tokenizer.context_length or DEFAULT_CONTEXT_LENGTH)
    save_config_for_hf(model, folder / HF_CONFIG_NAME, model_config)


def save_config_for_hf(
    model: nn.Module, config_path: str | os.PathLike[str], model_config: Mapping[str, Any] | None
) -> None:
    """Write the configurations of a model and of its preprocessing as JSON."""
    Path(config_path).write_text(json.dumps(_configs(model, model_config), indent=2), encoding="utf-8")


def _configs(model: nn.Module, model_config: Mapping[str, Any] | None) -> dict[str, Any]:
    pixels = get_model_preprocess_cfg(model)
    return {
        "model_cfg": model_config,
        "preprocess_cfg": {
            key: pixels[key] for key in PREPROCESS_FIELDS if key in pixels and pixels[key] != 0
        },
    }


def generate_readme(model_card: Mapping[str, Any], model_name: str) -> str:
    """Make the README of a repository.

    Args:
        model_card: any of `tags`, `pipeline_tag`, `license`, `description`, `details` (a dict of list items by name),
            `usage`, `comparison` and `citation` (one or several BibTeX entries).
        model_name: name in the title.
    """
    details: Mapping[str, Any] = model_card.get("details", {})
    lines = ["---"]
    if tags := model_card.get("tags", ("clip",)):
        lines += ["tags:", *(f"- {tag}" for tag in tags)]
    lines += ["library_name: open_clip"]
    lines += [f"pipeline_tag: {model_card.get('pipeline_tag', 'zero-shot-image-classification')}"]
    lines += [f"license: {model_card.get('license', 'mit')}"]
    if "Dataset" in details:
        lines += ["datasets:", f"- {details['Dataset'].lower()}"]
    lines += ["---", f"# Model card for {model_name}"]
    if "description" in model_card:
        lines += ["", model_card["description"]]
    if details:
        lines += ["", "## Model Details", *(line for item in details.items() for line in _detail(*item))]
    for key, title in (("usage", "Model Usage"), ("comparison", "Model Comparison")):
        if key in model_card:
            lines += ["", f"## {title}", model_card[key]]
    if "citation" in model_card:
        citations = model_card["citation"]
        citations = citations if isinstance(citations, (list, tuple)) else [citations]
        lines += ["", "## Citation", *(f"```bibtex\n{citation}\n```" for citation in citations)]
    return "\n".join(lines) + "\n"


def _detail(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"- **{name}:**", *(f"  - {key}: {part}" for key, part in value.items())]
    if isinstance(value, (list, tuple)):
        return [f"- **{name}:**", *(f"  - {part}" for part in value)]
    return [f"- **{name}:** {value}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m open_clip.push_to_hf_hub`."""
    parser = argparse.ArgumentParser(description="Upload a model to the Hugging Face hub.")
    parser.add_argument("--model", required=True, help="an architecture")
    parser.add_argument("--pretrained", required=True, help="a tag of its weights, or a file")
    parser.add_argument("--repo-id", required=True, help="owner/name")
    parser.add_argument("--precision", default="fp32", help="precision of the uploaded weights")
    parser.add_argument("--image-mean", type=float, nargs="+", help="mean of the images, per channel")
    parser.add_argument(
        "--image-std", type=float, nargs="+", help="standard deviation of the images, per channel"
    )
    parser.add_argument("--image-interpolation", choices=["bicubic", "bilinear", "random"])
    parser.add_argument("--image-resize-mode", choices=["shortest", "longest", "squash"])
    parser.add_argument(
        "--hf-tokenizer-self",
        action="store_true",
        help="set the tokenizer in the configuration to that of the new repository",
    )
    values = vars(parser.parse_args(arguments))
    push_pretrained_to_hf_hub(values.pop("model"), values.pop("pretrained"), values.pop("repo_id"), **values)


if __name__ == "__main__":
    main()
