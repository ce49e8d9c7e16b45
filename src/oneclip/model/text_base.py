"""Forward pass of a text transformer over its parts, which `TextTransformer` and a flat `CLIP` share.

Shapes: B batch, L tokens, C width, H heads, D joint embedding.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from oneclip.errors import ShapeError
from oneclip.model import untouched
from oneclip.model.freeze import Part, parameters_of, unlock_last
from oneclip.model.text_pooling import TextPooling, pool_text
from oneclip.model.transformer import Transformer
from oneclip.model.vision_common import check_output_format


class TextTransformerBase(nn.Module):
    """Forward pass of a text transformer over parts that a subclass registers under their published names.

    `TextTransformer` holds the parts in a module of its own, `CLIP` next to its visual tower.
    """

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

    @abstractmethod
    def pool_settings(self) -> tuple[str, int]:
        """Return the type of pooling and the end-of-text id, see `pool_text`."""

    def text_pooling(self) -> TextPooling:
        """Return which position is pooled, whether padding is read and what may be cut, as the parts are now."""
        pool_type, eos_id = self.pool_settings()
        return TextPooling(
            pool_type,
            eos_id,
            self.pad_id,
            is_causal=self.attn_mask is not None,
            masks_padding=self.use_pad_mask,
            has_class_token=self.cls_emb is not None,
        )

    def trim(self, text: Tensor) -> Tensor:
        """Check token ids and cut off those that cannot change the features, see `TextPooling.trim`.

        Args:
            text: (B, L) token ids.

        Returns:
            (B, L') with L' <= L.

        Raises:
            ShapeError: if L exceeds the table of positions, or is less in a tower that reads padding.
            TokenRangeError: if an id is outside the vocabulary.
        """
        self._check_text(text)
        return self.text_pooling().trim(text, vocabulary_of(self.token_embedding))

    def trim_unseen(self, text: Tensor) -> Tensor:
        """Apply `trim` where no hook, patch or replaced part could see the difference; else return the ids."""
        return (
            self.trim(text)
            if not untouched.is_recorded() and untouched.is_untouched(*self.text_parts())
            else text
        )

    def text_parts(self) -> list[nn.Module]:
        """List the modules of the text tower, each with all that is below it."""
        parts = (self.token_embedding, self.transformer, self.ln_final, self.text_projection)
        return [part for part in parts if isinstance(part, nn.Module)]

    def _encode(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Encode texts (B, L) as features (B, D), not normalized, and tokens (B, L, C)."""
        x, mask = self._embeds(text)
        return self._pool_text(self._run_text_blocks(x, mask), text)

    def _embeds(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embed texts (B, L) as tokens (B, L, C), with the mask that is added to the attention logits, if any.

        A class token follows them, at the last position of the table however short the texts are: (B, L + 1, C). It
        sees the first padding of each text, see `_build_additive_mask`, so texts shorter than the context get one
        more.
        """
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
        """Build a mask with minus infinity where a key is padding, and zero elsewhere.

        Published CoCa weights were trained with the entry of the class token at the front of this mask, although the
        token is at the end: each key is masked if the one before it is padding. `correct_cls_mask` puts the entry at
        the end.

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
        """Run the blocks, (B, L, C) -> (B, L, C)."""
        return self.transformer(x, attn_mask=mask)

    def _pool_text(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Pool tokens (B, L, C) to features (B, D); also return the tokens of the text."""
        if self.cls_emb is not None:  # pooled whatever pool_type says, and normalized afterwards
            pooled, tokens = self.ln_final(x[:, -1]), x[:, : text.shape[1]]
        else:
            tokens = self.ln_final(x)
            pool_type, eos_id = self.pool_settings()
            pooled = pool_text(tokens, text, pool_type, eos_id)
        return self._project(pooled), tokens

    def _project(self, pooled: Tensor) -> Tensor:
        """Project pooled tokens, (B, C) -> (B, D)."""
        if self.text_projection is None:
            return pooled
        if isinstance(self.text_projection, nn.Module):
            return self.text_projection(pooled)
        return pooled @ self.text_projection

    def _text_intermediates(
        self,
        text: Tensor,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NLC",
        output_extra_tokens: bool = False,
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

    def _text_layer_groups(self) -> list[list[nn.Parameter]]:
        embeddings: list[Part] = [self.token_embedding, self.positional_embedding, self.cls_emb]
        return [parameters_of(embeddings), *map(parameters_of, zip(self.transformer.resblocks, strict=True))]

    def _lock_text(self, unlocked_layers: int, freeze_layer_norm: bool) -> None:
        groups = self._text_layer_groups()
        groups[-1] += self.ln_final.parameters()
        if self.text_projection is not None:
            groups.append(parameters_of([self.text_projection]))
        modules = (module for part in self.text_parts() for module in part.modules())
        norms = [module for module in modules if isinstance(module, nn.LayerNorm)]
        unlock_last(groups, unlocked_layers, norms=[] if freeze_layer_norm else parameters_of(norms))

    def _check_text(self, text: Tensor) -> None:
        most = self.positional_embedding.shape[0] - int(self.cls_emb is not None)
        least = most if self.text_pooling().reads_padding else 1
        if text.ndim != 2 or not least <= text.shape[1] <= most:
            lengths = f"L from 1 up to {most}" if least == 1 else f"L = {most} (it reads padding)"
            raise ShapeError(f"the text tower takes token ids (B, L), {lengths}; found {tuple(text.shape)}")
        if self.attn_mask is not None and text.shape[1] > len(self.attn_mask):
            raise ShapeError(
                f"the text tower has {most} positions but a causal mask for {len(self.attn_mask)}: also replace "
                "attn_mask by one of the new length (build_causal_mask makes it)"
            )


def vocabulary_of(embedding: nn.Module) -> int | None:
    """Return how many token ids an embedding has rows for; None for a layer of another kind."""
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None
