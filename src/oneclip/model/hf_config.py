"""The name of a Hugging Face text model to its configuration, and to how its parts are called there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oneclip import hub, zoo
from oneclip.errors import ConfigError, DownloadError
from oneclip.model.optional_package import optional_package


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


# Values that decide what is computed. Of the others (labels, precision, kernels to fetch, …) a tower needs none, and
# transformers does whatever a file says of them.
INTEGERS = {  # and the least and the largest they may be
    **dict.fromkeys(("num_hidden_layers", "num_layers", "encoder_layers"), (1, 2**10)),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers"), (0, 2**10)),
    "vocab_size": (1, 2**24),
    "max_position_embeddings": (1, 2**20),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), (-1, 2**24)),
    **dict.fromkeys(("num_attention_heads", "num_heads"), (1, 2**12)),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), (1, 2**12)),
    **dict.fromkeys(("hidden_size", "d_model", "d_kv", "type_vocab_size"), (1, 2**16)),
    **dict.fromkeys(("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), (1, 2**20)),
    **dict.fromkeys(("relative_attention_num_buckets", "relative_attention_max_distance"), (1, 2**16)),
}
FRACTIONS = {  # from 0 to 1
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate", "dropout", "attention_dropout"),
    *("activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "layer_norm_eps", "layer_norm_epsilon"),
    *("initializer_range", "initializer_factor", "init_std"),
}
SWITCHES = {"scale_embedding", "is_encoder_decoder", "tie_word_embeddings"}
WORDS = {"hidden_act", "activation_function", "feed_forward_proj"}
KNOWN = {*INTEGERS, *FRACTIONS, *SWITCHES, *WORDS}
ATTENTIONS = ("eager", "sdpa")  # others would be fetched, and compute the same
USUAL = {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}
_WORD = re.compile(r"[\w-]{1,64}", re.ASCII)


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


def _checked(name: str, value: Any) -> Any:
    """A value of a configuration.

    Raises:
        ConfigError: if it is none that a model can have.
    """
    if value is None:
        return value
    least, most = INTEGERS.get(name, (0, 1))
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    if name in INTEGERS:
        is_sound = is_number and isinstance(value, int)
    elif name in FRACTIONS:
        is_sound = is_number
    elif name in SWITCHES:
        is_sound = isinstance(value, bool)
    else:
        is_sound = isinstance(value, str) and _WORD.fullmatch(value) is not None
    if not is_sound:
        raise ConfigError(
            f"the configuration of the text model has {name} {str(value)[:80]}, which no model has"
        )
    return value


def config_from(values: Mapping[str, Any]) -> Any:
    """The `PretrainedConfig` of what a `config.json` holds.

    Raises:
        MissingExtraError: without transformers.
        ConfigError: if it names no `model_type`, one that is no text tower here, or values that do not fit it.
    """
    transformers = optional_package("transformers", "A Hugging Face text tower", "hf")
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in KINDS:
        raise ConfigError(
            f"a configuration of model_type {str(model_type)[:80]!r} is of no text tower; those are {', '.join(KINDS)}"
        )
    known = {name: _checked(name, value) for name, value in values.items() if name in KNOWN}
    if values.get("attn_implementation") in ATTENTIONS:
        known["attn_implementation"] = values["attn_implementation"]
    for name, usual in USUAL.items():
        if name in values and values[name] not in (usual, None):
            raise ConfigError(
                f"the configuration of the text model has {name} {str(values[name])[:80]!r}; {usual!r} was expected"
            )
    try:
        config = transformers.AutoConfig.for_model(model_type, **known)
    except Exception as error:  # transformers checks values in ways that differ from release to release
        raise ConfigError(f"transformers does not take this {model_type} configuration: {error}") from error
    pad_id_of(config)
    return config
