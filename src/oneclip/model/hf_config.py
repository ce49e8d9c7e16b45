"""The name of a Hugging Face text model to its configuration, and to how its parts are called there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oneclip import hub, zoo
from oneclip.errors import ConfigError, DownloadError
from oneclip.model.optional import optional_package


@dataclass(frozen=True)
class TextModelKind:
    """One `model_type` of transformers'.

    Attributes:
        width: the field of its configuration that holds C.
        pooler: how a caption becomes one vector unless something else is asked for.
        embeddings: its embeddings, as a path below the encoder.
        blocks: its blocks, likewise.
        positions: "table" if it learns a row for each position, "table after padding" if the rows up to that of the
            pad id are none's (RoBERTa counts on from there), "computed" if captions may be of any length.
    """

    width: str
    pooler: str
    embeddings: str
    blocks: str
    positions: str


BERT = TextModelKind("hidden_size", "cls_pooler", "embeddings", "encoder.layer", "table")
ROBERTA = TextModelKind("hidden_size", "mean_pooler", "embeddings", "encoder.layer", "table after padding")
KINDS: Mapping[str, TextModelKind] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "mt5": TextModelKind("d_model", "mean_pooler", "embed_tokens", "block", "computed"),
    "m2m_100": TextModelKind("d_model", "cls_pooler", "embed_tokens", "layers", "computed"),
}


def kind_of(config: Any) -> TextModelKind:
    """How the parts of a model are called.

    Raises:
        ConfigError: if models of that type are no text towers here.
    """
    kind = KINDS.get(config.model_type)
    if kind is None:
        raise ConfigError(
            f"a Hugging Face text model of type {config.model_type!r} cannot be a text tower; "
            f"those of type {', '.join(KINDS)} can"
        )
    return kind


def longest_caption(config: Any) -> int | None:
    """The most tokens that a model has positions for; None where there is no limit."""
    positions = kind_of(config).positions
    if positions == "computed":
        return None
    unused = pad_id_of(config) + 1 if positions == "table after padding" else 0
    return int(config.max_position_embeddings) - unused


def pad_id_of(config: Any) -> int:
    """The id that fills up short captions.

    Raises:
        ConfigError: if the configuration has none: without it, padding would be read as text.
    """
    pad = getattr(config, "pad_token_id", None)
    if not isinstance(pad, int) or isinstance(pad, bool) or not 0 <= pad < config.vocab_size:
        raise ConfigError(
            f"the configuration of the text model has pad_token_id {pad!r}; it must be one of its "
            f"{config.vocab_size} ids, because padding is found by it"
        )
    return pad


def text_config(name: str) -> Any:
    """The `PretrainedConfig` of a Hugging Face text model.

    It is read from the file or folder if the name is one, from the zoo's own table if the model is in it, and from the
    hub or its cache else.

    Args:
        name: a folder with a `config.json`, that file by any name, or a repository.

    Raises:
        MissingExtraError: without transformers.
        ConfigError: if there is no such model, or it is of a type that is no text tower here.
        OfflineError, DownloadError: if it cannot be fetched.
        CheckpointError: if its `config.json` is not one.
    """
    folder = Path(name).expanduser()
    if folder.is_file():
        return config_from(hub.read_json(folder))
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"the folder {name} holds no config.json of a Hugging Face text model")
        return config_from(hub.read_json(folder / "config.json"))
    known = zoo.text_tower(name)
    if known is not None:
        return config_from(known)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(f"the text model {name!r} is neither a folder nor the name of a repository")
    try:
        return config_from(hub.read_json(hub.hub_file(name, "config.json")))
    except DownloadError as error:
        near = ", ".join(zoo.text_towers()[:3])
        raise type(error)(
            f"the text model's configuration: {error} (known without network: {near}, …)"
        ) from error


def config_from(values: Mapping[str, Any]) -> Any:
    """The `PretrainedConfig` of what a `config.json` holds.

    Raises:
        MissingExtraError: without transformers.
        ConfigError: if it names no `model_type`, one that is no text tower here, or values that do not fit it.
    """
    transformers = optional_package("transformers", "A Hugging Face text tower", "hf")
    rest = dict(values)
    model_type = rest.pop("model_type", None)
    if model_type not in KINDS:
        raise ConfigError(
            f"a configuration of model_type {model_type!r} is of no text tower; those are {', '.join(KINDS)}"
        )
    for precision in (
        "torch_dtype",
        "dtype",
    ):  # of the file's weights; a tower is made in torch's own precision
        rest.pop(precision, None)
    try:
        config = transformers.AutoConfig.for_model(model_type, **rest)
    except Exception as error:  # transformers checks values in ways that differ from release to release
        raise ConfigError(f"transformers does not take this {model_type} configuration: {error}") from error
    pad_id_of(config)
    return config
