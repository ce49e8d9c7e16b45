"""`open_clip.push_to_hf_hub`: a model to a repository of the Hugging Face hub that loads anywhere by its name."""

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
from open_clip.overrides import EDITS, edited
from open_clip.pretrained import _has_hf_hub, _has_safetensors
from open_clip.sources import find
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SigLipTokenizer

__all__ = ["push_pretrained_to_hf_hub", "push_to_hf_hub"]

PIXELS = ("mean", "std", "interpolation", "resize_mode", "fill_color", "background")


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
    """Put a model into a repository of the hub, which is made if there is none.

    Args:
        model: with its weights and, from `create_model`, its preprocessing.
        tokenizer: the model's; its files go along.
        model_config: what the model was built of, as `get_model_config` gives it.
        repo_id: "owner/name".
        commit_message: of the one commit that is made.
        token: to write with; the one of `hf auth login`, or `HF_TOKEN`, if None.
        revision: a branch.
        private: whether a repository that is made is private.
        create_pr: open a pull request instead.
        model_card: what the README says, see `generate_readme`; one that is there already stays.
        safe_serialization: True for safetensors, False for a PyTorch file, "both" for both.

    Returns:
        What the hub says of the commit (`huggingface_hub.CommitInfo`).

    Raises:
        OutputError: if the hub refuses.
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
            f"{repo_id} could not be written: {error}. Log in with `hf auth login`, or give token=, of an account "
            "that may write there"
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
    """`push_to_hf_hub` of `create_model_from_pretrained`; the configuration that is written is that of the weights.

    Args:
        hf_tokenizer_self: let the configuration name the new repository as the place of the tokenizer.
        kwargs: for `create_model_from_pretrained`.

    The other arguments, what is returned and the errors are those of the two.
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
    found = find(model_name, pretrained, kwargs.get("cache_dir"))
    model_config = edited(found.model_cfg, {name: value for name, value in kwargs.items() if name in EDITS})
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
    """Write what a repository holds into a folder; arguments as for `push_to_hf_hub`.

    The weights carry the configurations too, so that a file that is taken out of the folder still says what it is.
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
    else:  # CLIP's, in the files that other libraries read it from
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
        "preprocess_cfg": {key: pixels[key] for key in PIXELS if key in pixels and pixels[key] != 0},
    }


def generate_readme(model_card: Mapping[str, Any], model_name: str) -> str:
    """The README of a repository.

    Args:
        model_card: any of `tags`, `pipeline_tag`, `license`, `description`, `details` (what is listed under a name),
            `usage`, `comparison` and `citation` (BibTeX, one or several).
        model_name: its title.
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
    """`python -m open_clip.push_to_hf_hub`."""
    parser = argparse.ArgumentParser(description="Put a model into a repository of the Hugging Face hub.")
    parser.add_argument("--model", required=True, help="an architecture")
    parser.add_argument("--pretrained", required=True, help="a tag of its weights, or a file")
    parser.add_argument("--repo-id", required=True, help="owner/name")
    parser.add_argument("--precision", default="fp32", help="of the weights that are written")
    parser.add_argument("--image-mean", type=float, nargs="+", help="of the pictures, per channel")
    parser.add_argument("--image-std", type=float, nargs="+", help="of the pictures, per channel")
    parser.add_argument("--image-interpolation", choices=["bicubic", "bilinear", "random"])
    parser.add_argument("--image-resize-mode", choices=["shortest", "longest", "squash"])
    parser.add_argument(
        "--hf-tokenizer-self",
        action="store_true",
        help="name the new repository as the place of the tokenizer",
    )
    values = vars(parser.parse_args(arguments))
    push_pretrained_to_hf_hub(values.pop("model"), values.pop("pretrained"), values.pop("repo_id"), **values)


if __name__ == "__main__":
    main()
