"""Text tower that wraps an encoder of Hugging Face transformers.

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
from oneclip.errors import (
    CheckpointError,
    ConfigError,
    DownloadError,
    OfflineError,
    ShapeError,
    nearest_names,
)
from oneclip.hub.cache import OFFLINE_REASON
from oneclip.model import untouched
from oneclip.model.freeze import check_count
from oneclip.model.hf_config import config_from, kind_of, max_text_length, pad_id_of, text_config
from oneclip.model.hf_poolers import POOLERS, ClsPooler
from oneclip.model.optional_package import optional_package
from oneclip.model.text_pooling import POOLER, TextPooling

# the parameter names of layer norms differ between the models
_NORM = re.compile(r"(^|[._])layer_?norm($|\.)", re.IGNORECASE)


class HFTextTower(nn.Module):
    """Encoder of transformers, with pooling and projection.

    Of a model with encoder and decoder (mT5, M2M100) only the encoder is built. Attention is computed by the kernel
    that transformers prefers: `scaled_dot_product_attention` if the model supports it, else its own; both mask padding
    and return the same numbers.

    Args:
        cfg: `context_length`, `hf_model_name`, `hf_pooler_type` (None for the default of that model), `hf_proj_type`
            ("linear", "mlp", or None if C equals D), `output_tokens`; with `hf_model_pretrained` the encoder starts
            from its published weights, which are downloaded.
        embed_dim: D.
        config: the encoder's configuration, if not that of `cfg.hf_model_name`: a `PretrainedConfig`, or the content
            of a `config.json`.
        pooling_layer: build the pooling layer of a BERT-like model, which `cls_pooler` uses; None builds it if `cfg`
            requests that pooler.

    Raises:
        MissingExtraError: without transformers.
        ConfigError: if the configuration does not describe a text model, names an unknown pooler or projection, or has
            no pad id.
        OfflineError, DownloadError: if the configuration or the weights cannot be downloaded.
    """

    extra: str | None = "hf"

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
            near = ", ".join(nearest_names(pooler, POOLERS) or POOLERS)
            raise ConfigError(f"unknown hf_pooler_type {pooler!r}; did you mean {near}?")
        self.vocab_size = int(config.vocab_size)
        self.pad_id = pad_id_of(config)
        self.max_length = max_text_length(config)
        self.context_length = min(cfg.context_length, self.max_length or cfg.context_length)
        self.output_dim, self.output_tokens = embed_dim, cfg.output_tokens

        with_layer = cfg.hf_pooler_type == "cls_pooler" if pooling_layer is None else pooling_layer
        self.transformer = _encoder(config, with_layer, name if cfg.hf_model_pretrained else None)
        self.pooler = POOLERS[pooler]()
        self.proj = _projection(cfg.hf_proj_type, int(getattr(config, kind.width)), embed_dim)

    def forward(self, text: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode texts.

        Args:
            text: (B, L) int64 token ids, padded with the model's own pad id.

        Returns:
            (B, D) features, not normalized; with `output_tokens` also the tokens (B, L, C), without the first one if
            `cls_pooler` pools it.

        Raises:
            ShapeError: if L exceeds the positions of the model.
            TokenRangeError: if an id is outside the vocabulary.
        """
        if not untouched.is_recorded():
            trimmed = self.trim(text)  # which also checks the ids
            text = trimmed if not self.output_tokens and untouched.is_untouched(self) else text
        mask = (text != self.pad_id).long()
        output = self.transformer(input_ids=text, attention_mask=mask)
        pooled = self.proj(self.pooler(output, mask))
        if not self.output_tokens:
            return pooled
        tokens = output.last_hidden_state
        return pooled, tokens[:, 1:] if type(self.pooler) is ClsPooler else tokens

    def text_pooling(self) -> TextPooling:
        """Return the rules of this tower: a pooler reads all tokens, and attention masks padding."""
        return TextPooling(POOLER, pad_id=self.pad_id, is_causal=False, masks_padding=True)

    def trim(self, text: Tensor) -> Tensor:
        """Check token ids and cut off the columns at the end that are padding in every text, see `TextPooling.trim`.

        Args:
            text: (B, L) token ids.

        Returns:
            (B, L') with 1 <= L' <= L.

        Raises:
            ShapeError: if L exceeds the positions of the model.
            TokenRangeError: if an id is outside the vocabulary.
        """
        if text.ndim != 2 or text.shape[1] < 1:
            raise ShapeError(f"the text tower takes token ids (B, L), L from 1 up; found {tuple(text.shape)}")
        if self.max_length is not None and text.shape[1] > self.max_length:
            raise ShapeError(
                f"the text tower takes token ids (B, L), L from 1 up to {self.max_length}; found {tuple(text.shape)}"
            )
        return self.text_pooling().trim(text, self.vocab_size)

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the encoder except its last groups: embeddings, each block. The projection stays trainable.

        Args:
            unlocked_layers: how many groups stay trainable, from the end; 0 freezes the whole encoder.
            freeze_layer_norm: False leaves the layer norms of frozen groups trainable.
        """
        check_count(unlocked_layers, "layers")
        frozen = self._layers()[:-unlocked_layers] if unlocked_layers else [self.transformer]
        for group in frozen:
            for name, parameter in group.named_parameters():
                parameter.requires_grad = not freeze_layer_norm and bool(_NORM.search(name))

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Group the parameters by layer: embeddings, each block; the projection is left out."""
        return [list(layer.parameters()) for layer in self._layers()]

    def _layers(self) -> list[nn.Module]:
        kind = kind_of(self.config)
        return [attrgetter(kind.embeddings)(self.transformer), *attrgetter(kind.blocks)(self.transformer)]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass of training instead of storing its activations."""
        # transformers 5 renamed the method, and 6 removes the older name
        prefix = "activation" if hasattr(self.transformer, "activation_checkpointing_enable") else "gradient"
        if enable:
            # the reentrant form loses the gradients of blocks behind frozen embeddings
            getattr(self.transformer, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.transformer, f"{prefix}_checkpointing_disable")()

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should skip, in addition to vectors and scalars: none."""
        return set()

    def forward_intermediates(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Raise an error: transformers has its own way to return intermediates.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a Hugging Face text tower does not return intermediates: request those of the image alone, or call "
            "model.text.transformer with output_hidden_states=True"
        )


def _projection(kind: str | None, width: int, embed_dim: int) -> nn.Module:
    """Make the projection (B, C) -> (B, D)."""
    if kind == "linear":
        return nn.Linear(width, embed_dim, bias=False)
    if kind == "mlp":
        hidden = (width + embed_dim) // 2
        return nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, embed_dim, bias=False)
        )
    if kind is None and width == embed_dim:
        return nn.Identity()
    hint = " (None needs equal widths)" if kind is None else ""
    raise ConfigError(
        f"hf_proj_type is {kind!r}; expected 'linear' or 'mlp' for a text tower of width {width} with features of "
        f"width {embed_dim}{hint}"
    )


def _encoder(config: Any, pooling_layer: bool, published: str | None) -> Any:
    """Build the encoder of a configuration, with random weights or with those published under a name."""
    feature = "A Hugging Face text tower"
    transformers = optional_package("transformers", feature, "hf")
    # transformers imports this late, and the import may fail
    optional_package("transformers.modeling_utils", feature, "hf")
    arguments: dict[str, Any] = {}
    config = copy.deepcopy(config)
    config.use_cache = False  # only a decoder needs cached keys and values
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
            raise ConfigError(f"transformers cannot build this {config.model_type}: {error}") from error
    return model.encoder if config.model_type in ("mt5", "m2m_100") else model


def _published(whole: Any, name: str, config: Any, arguments: dict[str, Any]) -> Any:
    """Load a model of a class with the weights published under a name, in float32."""
    try:
        model, report = whole.from_pretrained(
            name, config=config, local_files_only=hub.offline(), output_loading_info=True, **arguments
        )
    except (OSError, ValueError) as error:  # raised by transformers for missing files
        if hub.offline() and isinstance(error, OSError) and not Path(name).is_dir():
            raise OfflineError(
                f"the weights of the text model {name} are not on this machine and {OFFLINE_REASON}. On a machine with "
                f"a network, `hf download {name}` adds them to the hub's cache"
            ) from error
        raise DownloadError(f"the weights of the text model {name} could not be loaded: {error}") from error
    missing = set(report["missing_keys"])
    if config.model_type in ("mt5", "m2m_100"):
        model.encoder.embed_tokens.weight = model.shared.weight  # one table, which a file may contain once
        missing -= {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    # masked language models are published without a pooling layer: it starts at random, as in other fine-tuning
    missing = {key for key in missing if not key.startswith("pooler.") and "position" not in key}
    if missing:
        raise CheckpointError(
            f"the weights of the text model {name} lack {len(missing)} tensors, for example {min(missing)}"
        )
    return model.to(torch.float32).train()
