"""Configurations of Hugging Face text models, and the names of their parts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oneclip import hub, zoo
from oneclip.errors import ConfigError, DownloadError
from oneclip.model.optional_package import optional_package


@dataclass(frozen=True)
class TextModelKind:
    """Names of the parts of one `model_type` of transformers.

    Attributes:
        width: the field of its configuration that contains C.
        pooler: the default pooler.
        embeddings: path of the embeddings below the encoder.
        blocks: path of the blocks below the encoder.
        positions: "table" if it learns a row for each position, "table after padding" if the rows up to that of the
            pad id are not used (RoBERTa counts from there), "computed" if texts may have any length.
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


# Fields that decide the computation. A tower does not need the others (labels, precision, kernels to download, …), and
# transformers would follow whatever a file says about them.
INTEGERS = {  # with their smallest and largest value
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
ATTENTIONS = ("eager", "sdpa")  # others would be downloaded, and compute the same
REQUIRED = {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}
_WORD = re.compile(r"[\w-]{1,64}", re.ASCII)


def kind_of(config: Any) -> TextModelKind:
    """Look up the names of a model's parts.

    Raises:
        ConfigError: if models of that type are not supported.
    """
    kind = KINDS.get(config.model_type)
    if kind is None:
        raise ConfigError(
            f"a Hugging Face text model of type {config.model_type!r} cannot be a text tower; supported types: "
            f"{', '.join(KINDS)}"
        )
    return kind


def max_text_length(config: Any) -> int | None:
    """Return how many tokens a model has positions for; None if there is no limit."""
    positions = kind_of(config).positions
    if positions == "computed":
        return None
    unused = pad_id_of(config) + 1 if positions == "table after padding" else 0
    return int(config.max_position_embeddings) - unused


def pad_id_of(config: Any) -> int:
    """Return the id of padding.

    Raises:
        ConfigError: if the configuration has none: padding would be read as text.
    """
    pad = getattr(config, "pad_token_id", None)
    if not isinstance(pad, int) or isinstance(pad, bool) or not 0 <= pad < config.vocab_size:
        raise ConfigError(
            f"the configuration of the text model has pad_token_id {pad!r}; expected one of its "
            f"{config.vocab_size} ids, which marks padding"
        )
    return pad


def text_config(name: str) -> Any:
    """Find the `PretrainedConfig` of a Hugging Face text model.

    It is read from a file or folder of that name, from the zoo's own table, or from the hub or its cache.

    Args:
        name: a folder with a `config.json`, that file by any name, or a repository.

    Raises:
        MissingExtraError: without transformers.
        ConfigError: if there is no such model, or its type is not supported.
        OfflineError, DownloadError: if it cannot be downloaded.
        CheckpointError: if its `config.json` is damaged.
    """
    path, kind = zoo.local_path(name)
    if kind == "file":
        return config_from(hub.read_json(path))
    if kind == "folder":
        if not (path / "config.json").is_file():
            raise ConfigError(f"the folder {name} contains no config.json of a Hugging Face text model")
        return config_from(hub.read_json(path / "config.json"))
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
            f"the text model's configuration: {error} (available without network: {near}, …)"
        ) from error


def _checked(name: str, value: Any) -> Any:
    """Return a value of a configuration if a model can have it.

    Raises:
        ConfigError: if it is out of range or of another type.
    """
    if value is None:
        return value
    least, most = INTEGERS.get(name, (0, 1))
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    if name in INTEGERS:
        is_valid = is_number and isinstance(value, int)
    elif name in FRACTIONS:
        is_valid = is_number
    elif name in SWITCHES:
        is_valid = isinstance(value, bool)
    else:
        is_valid = isinstance(value, str) and _WORD.fullmatch(value) is not None
    if not is_valid:
        raise ConfigError(f"the configuration of the text model has an invalid {name}: {str(value)[:80]}")
    return value


def config_from(values: Mapping[str, Any]) -> Any:
    """Make a `PretrainedConfig` from the content of a `config.json`.

    Raises:
        MissingExtraError: without transformers.
        ConfigError: if its `model_type` is missing or not supported, or a value does not fit.
    """
    transformers = optional_package("transformers", "A Hugging Face text tower", "hf")
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in KINDS:
        raise ConfigError(
            f"model_type {str(model_type)[:80]!r} cannot be a text tower; supported types: {', '.join(KINDS)}"
        )
    known = {name: _checked(name, value) for name, value in values.items() if name in KNOWN}
    if values.get("attn_implementation") in ATTENTIONS:
        known["attn_implementation"] = values["attn_implementation"]
    for name, required in REQUIRED.items():
        if name in values and values[name] not in (required, None):
            raise ConfigError(
                f"the configuration of the text model has {name} {str(values[name])[:80]!r}; expected {required!r}"
            )
    try:
        config = transformers.AutoConfig.for_model(model_type, **known)
    except Exception as error:  # the checks of transformers differ between releases
        raise ConfigError(f"transformers rejects this {model_type} configuration: {error}") from error
    pad_id_of(config)
    return config
