"""Text tower: token ids to one feature vector a text.

Shapes: B batch, L tokens, C width, H heads, D joint embedding.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from oneclip.errors import ConfigError, ShapeError
from oneclip.model import untouched
from oneclip.model.attention import Norm
from oneclip.model.freeze import Part, unlock_last
from oneclip.model.layers import LayerNorm
from oneclip.model.pooling import POOL_TYPES, pool_text, pooled_positions
from oneclip.model.scripting import unscripted
from oneclip.model.token_checks import are_at_hand, check_vocabulary, may_trim, without_padding
from oneclip.model.transformer import Activation, Transformer, init_blocks
from oneclip.model.vision_common import check_output_format


class TextTower(nn.Module):
    """What the stand-alone text tower and the flat `CLIP` share: the forward of a text tower over its parts.

    A subclass registers the parts under their published names.
    """

    __constants__ = ("projects_by_layer",)  # so that TorchScript compiles only the branch that holds

    if TYPE_CHECKING:  # TorchScript reads annotations of a class, and knows no modules among them
        transformer: Transformer
        token_embedding: nn.Embedding
        positional_embedding: nn.Parameter
        ln_final: nn.Module
        text_projection: Any  # a matrix (C, D), a linear layer, or None
        cls_emb: nn.Parameter | None
        attn_mask: Tensor | None
        context_length: int
        heads: int
        pad_id: int
        use_pad_mask: bool
        correct_cls_mask: bool
        projects_by_layer: bool

    @abstractmethod
    def pooling(self) -> tuple[str, int]:
        """Which token is pooled, see `pool_text`, and the end-of-text id that "eos" looks for."""

    def _encode(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Texts (B, L) to features (B, D), not normalised, and their tokens (B, L, C)."""
        x, mask = self._embeds(text)
        x = self._run_text_blocks(x, mask)
        return self._pool_text(x, text)

    def _embeds(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Texts (B, L) to tokens (B, L, C), and what is added to the attention logits, if anything.

        A class token comes behind them, on the last positional row however short the texts are: (B, L + 1, C). It
        sees the first padding of each text, see `_build_additive_mask`, so texts shorter than the context get one
        more.
        """
        if not torch.jit.is_scripting():
            self._check_text(text)
        if self.cls_emb is not None and text.shape[1] < self.context_length:
            text = torch.cat([text, torch.full_like(text[:, :1], self.pad_id)], dim=1)
        dtype = self.transformer.get_cast_dtype()
        x = self.token_embedding(text).to(dtype)  # (B, L, C)
        positions = self.positional_embedding[: text.shape[1]]
        if self.cls_emb is not None:
            class_token = self.cls_emb.to(dtype).expand(x.shape[0], 1, -1)
            x = torch.cat([x, class_token], dim=1)
            positions = torch.cat([positions, self.positional_embedding[-1:]])
        x = x + positions.to(dtype)
        mask: Tensor | None = None
        if self.attn_mask is not None:
            mask = self.attn_mask[: x.shape[1], : x.shape[1]]
        if self.use_pad_mask or self.cls_emb is not None:
            padding = self._build_additive_mask(text, x.shape[1], dtype)
            mask = padding if mask is None else mask.unsqueeze(0) + padding
        return x, mask

    def _build_additive_mask(self, text: Tensor, seq_len: int, dtype: torch.dtype) -> Tensor:
        """Minus infinity where a key is padding, zero elsewhere.

        Published CoCa weights were trained with the class token's place at the front of this mask, one off from where
        the token stands: each key is masked if the one before it is padding. `correct_cls_mask` puts it at the end.

        Args:
            text: (B, L) token ids, without the class token.
            seq_len: L, or L + 1 with a class token.
            dtype: of the mask.

        Returns:
            (B H, seq_len, seq_len).
        """
        real = text != self.pad_id
        if self.cls_emb is not None:
            always = torch.ones_like(real[:, :1])
            real = torch.cat([real, always] if self.correct_cls_mask else [always, real], dim=1)
        mask = torch.zeros(real.shape, dtype=dtype, device=text.device).masked_fill(~real, float("-inf"))
        return mask[:, None, :].expand(-1, seq_len, -1).repeat_interleave(self.heads, 0)

    def _run_text_blocks(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        x = self.transformer(x, attn_mask=mask)
        return x

    def _pool_text(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, C) to features (B, D), and the tokens that go with them."""
        if self.cls_emb is not None:  # pooled whatever pool_type says, and normalised after
            pooled, tokens = self.ln_final(x[:, -1]), x[:, : text.shape[1]]
        else:
            tokens = self.ln_final(x)
            pool_type, eos_id = self.pooling()
            pooled = pool_text(tokens, text, pool_type, eos_id)
        return self._project(pooled), tokens

    def _project(self, pooled: Tensor) -> Tensor:
        """(B, C) -> (B, D)."""
        if torch.jit.is_scripting():
            if self.projects_by_layer:
                pooled = self.text_projection(pooled)
            elif self.text_projection is not None:
                pooled = pooled @ self.text_projection
        elif isinstance(self.text_projection, nn.Module):
            pooled = self.text_projection(pooled)
        elif self.text_projection is not None:
            pooled = pooled @ self.text_projection
        return pooled

    @unscripted
    def _text_intermediates(
        self,
        text: Tensor,
        indices: int | list[int] | None,
        stop_early: bool,
        normalize_intermediates: bool,
        intermediates_only: bool,
        output_fmt: str,
        output_extra_tokens: bool,
    ) -> dict[str, Tensor | list[Tensor]]:
        check_output_format(output_fmt, ("NLC",))
        x, mask = self._embeds(text)
        x, kept = self.transformer.forward_intermediates(x, mask, indices, stop_early and intermediates_only)
        if normalize_intermediates:
            kept = [self.ln_final(y) for y in kept]
        output: dict[str, Tensor | list[Tensor]] = {}
        if self.cls_emb is not None:
            if output_extra_tokens:
                output["text_intermediates_suffix"] = [y[:, -1:] for y in kept]
            kept = [y[:, : text.shape[1]] for y in kept]
        output["text_intermediates"] = kept
        if not intermediates_only:
            output["text_features"], _ = self._pool_text(x, text)
        return output

    @unscripted
    def trim(self, text: Tensor) -> Tensor:
        """Cut off the token ids that cannot change the features: those behind the last position that is pooled.

        Exact, because in a causal tower no position sees what follows it; and a class token sees no padding but the
        first, which `_embeds` puts back. Where neither holds, or the ids are not in the CPU's memory (finding the
        length would stall the device), they are returned whole.

        Args:
            text: (B, L) token ids.

        Returns:
            (B, L') with L' <= L.

        Raises:
            ShapeError: if L exceeds the table of positions, or is less in a tower that reads the padding, too.
            TokenRangeError: if an id is outside the vocabulary.
        """
        self._check_text(text)
        causal = self.attn_mask is not None and not self.use_pad_mask
        known = are_at_hand(text)
        if known:
            check_vocabulary(text, vocabulary_of(self.token_embedding))
        if known and self.cls_emb is not None:
            return without_padding(text, self.pad_id)
        if not causal or not known:
            return text
        pool_type, eos_id = self.pooling()
        if pool_type == "first":
            return text[:, :1]
        if pool_type not in ("argmax", "eos"):
            return text
        return text[:, : 1 + int(pooled_positions(text, pool_type, eos_id).max())]

    @unscripted
    def trim_unseen(self, text: Tensor) -> Tensor:
        """`trim`, where no hook, patch or replaced part could see the difference; else the ids as they are."""
        return self.trim(text) if may_trim() and untouched.is_untouched(*self._text_parts()) else text

    @unscripted
    def _text_parts(self) -> list[nn.Module]:
        """The modules that the text tower is made of, each with all that is below it."""
        parts = (self.token_embedding, self.transformer, self.ln_final, self.text_projection)
        return [part for part in parts if isinstance(part, nn.Module)]

    @unscripted
    def _lock_text(self, unlocked_layers: int, freeze_layer_norm: bool) -> None:
        blocks: list[Part] = list(self.transformer.resblocks)
        groups: list[list[Part]] = [
            [self.token_embedding, self.positional_embedding, self.cls_emb],
            *[[block] for block in blocks[:-1]],
            [blocks[-1], self.ln_final],
        ]
        if self.text_projection is not None:
            groups.append([self.text_projection])
        unlock_last(groups, unlocked_layers, keep_norms=not freeze_layer_norm)

    @unscripted
    def _checkpoint_text(self, enable: bool) -> None:
        self.transformer.grad_checkpointing = enable

    @unscripted
    def _check_text(self, text: Tensor) -> None:
        most = self.positional_embedding.shape[0] - int(self.cls_emb is not None)
        least = most if self._reads_padding() else 1
        if text.ndim != 2 or not least <= text.shape[1] <= most:
            lengths = f"L from 1 up to {most}" if least == 1 else f"L = {most} (it reads the padding, too)"
            raise ShapeError(f"the text tower takes token ids (B, L), {lengths}; found {tuple(text.shape)}")
        if self.attn_mask is not None and text.shape[1] > len(self.attn_mask):
            raise ShapeError(
                f"the text tower has {most} positions, and a causal mask for {len(self.attn_mask)}: replace attn_mask, "
                "too, by one of the new length (build_causal_mask makes it)"
            )

    @unscripted
    def _reads_padding(self) -> bool:
        """Whether a shorter row of the same text has other features, which would look as good (SigLIP's)."""
        sees_all = self.attn_mask is None and not self.use_pad_mask
        return self.cls_emb is None and (sees_all or self.pooling()[0] == "last")


class TextTransformer(TextTower):
    """Transformer over token ids, pooled at the end-of-text token (Radford et al. 2021, section 2.4).

    Args:
        context_length: L at most.
        vocab_size: how many token ids there are.
        width: C.
        heads, layers, mlp_ratio, ls_init_value: of the transformer.
        output_dim: D; None leaves out the projection.
        embed_cls: add a learned class token behind the last position, and pool it (CoCa).
        no_causal_mask: let every token see those behind it.
        use_pad_mask: in a tower that is not causal, attend to no padding.
        correct_cls_mask: see `_build_additive_mask`.
        pad_id: the token id of padding.
        eos_id: the end-of-text id that `pool_type="eos"` looks for.
        pool_type: see `pool_text`.
        proj_type: "linear", or "none" for no projection.
        proj_bias: whether the projection adds a bias.
        act_layer, norm_layer: make the activations and the norms.
        output_tokens: return the tokens, too.
        block_type: as in `Transformer`, and so are the switches that follow it.

    Raises:
        ConfigError: for an unknown `pool_type` or `proj_type`.
    """

    def __init__(
        self,
        context_length: int = 77,
        vocab_size: int = 49408,
        width: int = 512,
        heads: int = 8,
        layers: int = 12,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        output_dim: int | None = 512,
        embed_cls: bool = False,
        no_causal_mask: bool = False,
        use_pad_mask: bool = False,
        correct_cls_mask: bool = False,
        pad_id: int = 0,
        eos_id: int = 2,
        pool_type: str = "argmax",
        proj_type: str = "linear",
        proj_bias: bool = False,
        act_layer: Activation = nn.GELU,
        norm_layer: Norm = LayerNorm,
        output_tokens: bool = False,
        block_type: str | None = None,
        qk_norm: bool = False,
        scaled_cosine_attn: bool = False,
        scale_heads: bool = False,
        scale_attn_inner: bool = False,
        scale_attn: bool = False,
        scale_fc: bool = False,
    ) -> None:
        super().__init__()
        if pool_type not in POOL_TYPES:
            raise ConfigError(
                f"pool_type of the text tower is {pool_type!r}; expected one of {', '.join(POOL_TYPES)}"
            )
        if proj_type not in ("linear", "none"):
            raise ConfigError(f"proj_type of the text tower is {proj_type!r}; expected 'linear' or 'none'")
        self.output_tokens = output_tokens
        self.context_length = context_length
        self.num_pos = context_length + int(embed_cls)
        self.vocab_size, self.width, self.heads, self.output_dim = vocab_size, width, heads, output_dim
        self.pad_id, self.eos_id, self.pool_type = pad_id, eos_id, pool_type
        self.use_pad_mask = use_pad_mask and no_causal_mask
        self.correct_cls_mask = correct_cls_mask

        self.token_embedding = nn.Embedding(vocab_size, width)
        self.register_parameter("cls_emb", nn.Parameter(torch.empty(width)) if embed_cls else None)
        self.positional_embedding = nn.Parameter(torch.empty(self.num_pos, width))
        self.transformer = Transformer(
            width,
            layers,
            heads,
            mlp_ratio,
            ls_init_value=ls_init_value,
            act_layer=act_layer,
            norm_layer=norm_layer,
            block_type=block_type,
            qk_norm=qk_norm,
            scaled_cosine_attn=scaled_cosine_attn,
            scale_heads=scale_heads,
            scale_attn_inner=scale_attn_inner,
            scale_attn=scale_attn,
            scale_fc=scale_fc,
        )
        self.ln_final = norm_layer(width)
        self.register_buffer(
            "attn_mask", None if no_causal_mask else self.build_causal_mask(), persistent=False
        )
        projects = proj_type != "none" and bool(output_dim)
        self.projects_by_layer = projects and proj_bias
        if not projects:
            self.register_parameter("text_projection", None)
        elif proj_bias:
            self.text_projection = nn.Linear(width, output_dim)  # type: ignore[arg-type]
        else:
            self.text_projection = nn.Parameter(torch.empty(width, output_dim))  # type: ignore[arg-type]
        self.init_parameters()

    @unscripted
    def init_parameters(self) -> None:
        """Draw the weights anew, as training begins with them (Radford et al. 2021, section 2.5)."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        if self.cls_emb is not None:
            nn.init.normal_(self.cls_emb, std=0.01)
        width = self.transformer.width
        init_blocks(self.transformer.resblocks, width, self.transformer.layers)
        if isinstance(self.text_projection, nn.Linear):
            nn.init.normal_(self.text_projection.weight, std=width**-0.5)
            nn.init.zeros_(self.text_projection.bias)
        elif self.text_projection is not None:
            nn.init.normal_(self.text_projection, std=width**-0.5)

    @unscripted
    def build_causal_mask(self) -> Tensor:
        """The mask that is added to the attention logits, see `causal_mask`."""
        return causal_mask(self.num_pos)

    def pooling(self) -> tuple[str, int]:
        """Which token is pooled, see `pool_text`, and the end-of-text id that "eos" looks for."""
        return self.pool_type, self.eos_id

    def forward(self, text: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode texts.

        Args:
            text: (B, L) int64 token ids, padded after the end-of-text token.

        Returns:
            (B, D) features, not normalised; with `output_tokens` also the tokens (B, L, C).

        Raises:
            ShapeError: if L exceeds the table of positions, or is less in a tower that reads the padding, too.
        """
        if not torch.jit.is_scripting() and not self.output_tokens:
            text = self.trim_unseen(text)
        pooled, tokens = self._encode(text)
        if self.output_tokens:
            return pooled, tokens
        return pooled

    @unscripted
    def forward_intermediates(
        self,
        text: Tensor,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NLC",
        output_extra_tokens: bool = False,
    ) -> dict[str, Tensor | list[Tensor]]:
        """Encode texts and keep the tokens of chosen blocks.

        Args:
            text: (B, L) token ids; all L positions are computed.
            indices: which blocks, see `take_indices`.
            stop_early: with `intermediates_only`, compute nothing past the last block chosen.
            normalize_intermediates: apply the tower's final norm to them.
            intermediates_only: leave out `text_features`.
            output_fmt: "NLC", tokens (B, L, C), is the only one.
            output_extra_tokens: also give the class tokens (B, 1, C), where the tower has them.

        Returns:
            `text_intermediates`, `text_intermediates_suffix` if asked for, and `text_features` (B, D) unless left out.
        """
        return self._text_intermediates(
            text,
            indices,
            stop_early,
            normalize_intermediates,
            intermediates_only,
            output_fmt,
            output_extra_tokens,
        )

    @unscripted
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the intermediates of chosen blocks do not need; see `VisionTransformer`'s method."""
        chosen = self.transformer.prune_intermediate_layers(indices)
        if prune_norm:
            self.ln_final = nn.Identity()
        if prune_head:
            self.text_projection = None
        return chosen

    @unscripted
    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the tower but for its last groups: embeddings, each block, projection.

        Args:
            unlocked_layers: how many groups stay trainable, from the end; the last block goes with the final norm.
            freeze_layer_norm: False leaves the layer norms of the frozen groups trainable.
        """
        self._lock_text(unlocked_layers, freeze_layer_norm)

    @unscripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self._checkpoint_text(enable)

    @unscripted
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should pass over, besides vectors and scalars."""
        return {"positional_embedding"} | ({"cls_emb"} if self.cls_emb is not None else set())


def causal_mask(length: int) -> Tensor:
    """(L, L): zero where a token may look, minus infinity where it may not."""
    return torch.full((length, length), float("-inf")).triu_(1)


def vocabulary_of(embedding: nn.Module) -> int | None:
    """How many token ids an embedding has rows for; None for a layer that does not say."""
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None
