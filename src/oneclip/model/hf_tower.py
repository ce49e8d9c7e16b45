"""Text tower of a Hugging Face model: token ids to one feature vector a caption.

Shapes: B batch, L tokens, C width, D joint embedding.
"""

import copy
import re
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oneclip import hub
from oneclip.config import CLIPTextCfg
from oneclip.errors import CheckpointError, ConfigError, DownloadError, OfflineError, ShapeError, nearest
from oneclip.hub.cache import SWITCHED_OFF
from oneclip.model import untouched
from oneclip.model.hf_config import config_from, kind_of, longest_caption, pad_id_of, text_config
from oneclip.model.hf_poolers import POOLERS, ClsPooler
from oneclip.model.optional_package import optional_package
from oneclip.model.token_checks import are_at_hand, check_vocabulary, may_trim, without_padding

# the parameter names of layer norms differ between the models
_NORM = re.compile(r"(^|[._])layer_?norm($|\.)", re.IGNORECASE)


class HFTextTower(nn.Module):
    """An encoder of transformers', its tokens pooled and projected.

    Of a model with encoder and decoder (mT5, M2M100) only the encoder is made. Attention is computed by the kernel
    that transformers prefers: `scaled_dot_product_attention` where the model has it, else its own; both mask padding
    and give the same numbers.

    Args:
        cfg: `context_length`, `hf_model_name`, `hf_pooler_type` (None for the usual one of that model), `hf_proj_type`
            ("linear", "mlp", or None where C is D), `output_tokens`; with `hf_model_pretrained` the encoder begins
            with its published weights, which are fetched.
        embed_dim: D.
        config: the encoder's configuration, if not that of `cfg.hf_model_name`: a `PretrainedConfig`, or what a
            `config.json` holds.
        pooling_layer: whether a model of BERT's kind has its pooling layer, which `cls_pooler` uses; None for where
            `cfg` asks for that pooler.

    Raises:
        MissingExtraError: without transformers.
        ConfigError: if the configuration is of no text model, names an unknown pooler or projection, or says not what
            padding is.
        OfflineError, DownloadError: if the configuration or the weights cannot be fetched.
    """

    def __init__(
        self,
        cfg: CLIPTextCfg,
        embed_dim: int,
        config: Any = None,
        pooling_layer: bool | None = None,
    ) -> None:
        super().__init__()
        name = cfg.hf_model_name or ""
        if config is None:
            config = text_config(name)
        elif isinstance(config, Mapping):
            config = config_from(config)
        self.config = config
        kind = kind_of(config)
        pooler = cfg.hf_pooler_type or kind.pooler
        if pooler not in POOLERS:
            near = ", ".join(nearest(pooler, POOLERS) or POOLERS)
            raise ConfigError(f"hf_pooler_type is {pooler!r}, which is not a pooler; did you mean {near}?")
        self.vocab_size = int(config.vocab_size)
        self.pad_id = pad_id_of(config)
        self.longest = longest_caption(config)
        self.context_length = min(cfg.context_length, self.longest or cfg.context_length)
        self.output_dim, self.output_tokens = embed_dim, cfg.output_tokens

        with_layer = cfg.hf_pooler_type == "cls_pooler" if pooling_layer is None else pooling_layer
        self.transformer = _encoder(config, with_layer, name if cfg.hf_model_pretrained else None)
        self.pooler = POOLERS[pooler]()
        self.proj = _projection(cfg.hf_proj_type, int(getattr(config, kind.width)), embed_dim)

    def forward(self, text: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode captions.

        Args:
            text: (B, L) int64 token ids, filled up with the model's own pad id.

        Returns:
            (B, D) features, not normalised; with `output_tokens` also the tokens (B, L, C), without the first if
            `cls_pooler` took it.

        Raises:
            ShapeError: if L is more than the model has positions for.
            TokenRangeError: if an id is outside the vocabulary.
        """
        if may_trim():
            trimmed = self.trim(text)  # which checks the ids, too
            text = trimmed if not self.output_tokens and untouched.is_untouched(self) else text
        mask = (text != self.pad_id).long()
        output = self.transformer(input_ids=text, attention_mask=mask)
        pooled: Tensor = self.proj(self.pooler(output, mask))
        if not self.output_tokens:
            return pooled
        tokens: Tensor = output.last_hidden_state
        return pooled, tokens[:, 1:] if type(self.pooler) is ClsPooler else tokens

    def trim(self, text: Tensor) -> Tensor:
        """Cut off the columns at the end that are padding in every caption: nothing attends to them.

        Ids that are not in the CPU's memory (finding the length would stall the device) are given back whole.

        Args:
            text: (B, L) token ids.

        Returns:
            (B, L') with 1 <= L' <= L.

        Raises:
            ShapeError: if L is more than the model has positions for.
            TokenRangeError: if an id is outside the vocabulary.
        """
        if text.ndim != 2 or text.shape[1] < 1:
            raise ShapeError(f"the text tower takes token ids (B, L), L from 1 up; found {tuple(text.shape)}")
        if self.longest is not None and text.shape[1] > self.longest:
            raise ShapeError(
                f"the text tower takes token ids (B, L), L from 1 up to {self.longest}; found {tuple(text.shape)}"
            )
        if not are_at_hand(text):
            return text
        check_vocabulary(text, self.vocab_size)
        return without_padding(text, self.pad_id)

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the encoder but for its last groups: embeddings, each block. The projection stays trainable.

        Args:
            unlocked_layers: how many groups stay trainable, from the end; 0 freezes the encoder whole.
            freeze_layer_norm: False leaves the layer norms of what is frozen trainable.
        """
        if unlocked_layers < 0:
            raise ConfigError(f"{unlocked_layers} layers cannot stay unlocked; give 0 to lock all of them")
        kind = kind_of(self.config)
        groups = [attrgetter(kind.embeddings)(self.transformer), *attrgetter(kind.blocks)(self.transformer)]
        frozen = groups[:-unlocked_layers] if unlocked_layers else [self.transformer]
        for group in frozen:
            for name, parameter in group.named_parameters():
                parameter.requires_grad = not freeze_layer_norm and bool(_NORM.search(name))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass of a training instead of keeping its activations."""
        # transformers calls it so from 5.x on, and drops the older name in 6
        prefix = "activation" if hasattr(self.transformer, "activation_checkpointing_enable") else "gradient"
        if enable:
            # the reentrant way loses the gradients of blocks behind frozen embeddings
            getattr(self.transformer, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.transformer, f"{prefix}_checkpointing_disable")()

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should pass over, besides vectors and scalars: none."""
        return set()

    def _lock_text(self, unlocked_layers: int, freeze_layer_norm: bool) -> None:
        self.lock(unlocked_layers, freeze_layer_norm)

    def _checkpoint_text(self, enable: bool) -> None:
        self.set_grad_checkpointing(enable)

    def _text_intermediates(self, *arguments: Any) -> dict[str, Tensor | list[Tensor]]:
        raise ConfigError(
            "a Hugging Face text tower gives no intermediates: ask for those of the picture alone, or call "
            "model.text.transformer with output_hidden_states=True"
        )


def _projection(kind: str | None, width: int, embed_dim: int) -> nn.Module:
    """(B, C) -> (B, D)."""
    if kind == "linear":
        return nn.Linear(width, embed_dim, bias=False)
    if kind == "mlp":
        hidden = (width + embed_dim) // 2
        return nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, embed_dim, bias=False)
        )
    if kind is None and width == embed_dim:
        return nn.Identity()
    found = "None, which fits only where these are equal" if kind is None else repr(kind)
    raise ConfigError(
        f"the text tower is {width} wide and its features {embed_dim}; hf_proj_type must be 'linear' or 'mlp', "
        f"and is {found}"
    )


def _encoder(config: Any, pooling_layer: bool, published: str | None) -> Any:
    """The encoder of a configuration: with random weights, or with those published under a name."""
    feature = "A Hugging Face text tower"
    transformers = optional_package("transformers", feature, "hf")
    # imported late, and where its import may fail
    optional_package("transformers.modeling_utils", feature, "hf")
    arguments: dict[str, Any] = {}
    config = copy.deepcopy(config)
    config.use_cache = False  # of keys and values, for a decoder
    if config.model_type == "mt5":
        whole = transformers.MT5EncoderModel
    elif config.model_type == "m2m_100":
        whole = transformers.M2M100Model
        config.decoder_layers = 0
    else:
        names = {"bert": "BertModel", "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel"}
        whole, arguments = (
            getattr(transformers, names[config.model_type]),
            {"add_pooling_layer": pooling_layer},
        )
    if published is not None:
        model = _published(whole, published, config, arguments)
    else:
        try:
            model = whole(config, **arguments)
        except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
            raise ConfigError(f"transformers cannot make this {config.model_type}: {error}") from error
    return model.encoder if config.model_type in ("mt5", "m2m_100") else model


def _published(whole: Any, name: str, config: Any, arguments: dict[str, Any]) -> Any:
    """A model of a class with the weights published under a name, in float32."""
    try:
        model, report = whole.from_pretrained(
            name, config=config, local_files_only=hub.offline(), output_loading_info=True, **arguments
        )
    except (OSError, ValueError) as error:  # what transformers raises for files that are not there
        if hub.offline() and isinstance(error, OSError) and not Path(name).is_dir():
            raise OfflineError(
                f"the weights of the text model {name} are not on this machine and {SWITCHED_OFF}. Where there is a "
                f"network, `hf download {name}` puts them into the hub's cache"
            ) from error
        raise DownloadError(f"the weights of the text model {name} could not be loaded: {error}") from error
    missing = set(report["missing_keys"])
    if config.model_type in ("mt5", "m2m_100"):
        model.encoder.embed_tokens.weight = model.shared.weight  # one table, which files may hold once
        missing -= {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    # weights trained to fill in words have no pooling layer: it begins at random, as wherever they are fine-tuned
    missing = {key for key in missing if not key.startswith("pooler.") and "position" not in key}
    if missing:
        raise CheckpointError(
            f"the weights of the text model {name} lack {len(missing)} tensors, among them {min(missing)}"
        )
    return model.to(torch.float32).train()
