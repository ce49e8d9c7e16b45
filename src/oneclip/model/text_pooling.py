"""Rules for rows of token ids: which position is pooled, whether padding is read, what may be cut.

Shapes: B batch, L tokens, C width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneclip.config import CLIPTextCfg
from oneclip.errors import TokenRangeError

POOL_TYPES = ("argmax", "eos", "first", "last", "none")
POOLER = "pooler"  # a module of the tower pools, over all tokens that are not padding


@dataclass(frozen=True)
class TextPooling:
    """How a text tower makes one vector of a row of token ids.

    Attributes:
        pool_type: the position that is pooled, see `pool_text`, or `POOLER`.
        eos_id: the end-of-text id that "eos" looks for.
        pad_id: the id of padding.
        is_causal: no position attends to those behind it.
        masks_padding: no position attends to padding.
        has_class_token: a class token behind the text is pooled, whatever `pool_type` says.
    """

    pool_type: str = "argmax"
    eos_id: int = 2
    pad_id: int = 0
    is_causal: bool = True
    masks_padding: bool = False
    has_class_token: bool = False

    @classmethod
    def of_cfg(cls, cfg: CLIPTextCfg) -> TextPooling:
        """Read the rules from a configuration; the pad id of a Hugging Face tower is in its own configuration."""
        if cfg.hf_model_name:
            return cls(POOLER, is_causal=False, masks_padding=True)
        return cls(
            cfg.pool_type,
            cfg.eos_id,
            cfg.pad_id,
            is_causal=not cfg.no_causal_mask,
            has_class_token=cfg.embed_cls,
        )

    @property
    def reads_padding(self) -> bool:
        """True if padding changes the features, as in SigLIP: rows must then be as long as in training."""
        sees_all = not self.is_causal and not self.masks_padding
        return not self.has_class_token and (sees_all or self.pool_type == "last")

    @property
    def is_found_by_id(self) -> bool:
        """True if the pooled position follows from the ids, and no position attends to those behind it."""
        is_plain = self.is_causal and not self.masks_padding and not self.has_class_token
        return is_plain and self.pool_type in ("argmax", "eos")

    @property
    def may_crop_padding(self) -> bool:
        """True if a batch may be cut to its longest text without a change of the features."""
        pools_first = self.is_causal and not self.has_class_token and self.pool_type == "first"
        return self.is_found_by_id or pools_first

    @property
    def filler_id(self) -> int | None:
        """An id that may follow any text without a change of the features; None if there is no such id.

        0 does where the pooled position is found by its id: "argmax" takes the first of the greatest ids, "eos" the
        first end of text.
        """
        is_safe = self.is_found_by_id and (self.pool_type == "argmax" or self.eos_id != 0)
        return 0 if is_safe else None

    def positions(self, text: Tensor, length: int) -> Tensor:
        """Find the pooled positions (B,) of texts (B, L) among `length` tokens; the class token is the last one."""
        if self.has_class_token or self.pool_type == "last":
            return torch.full((len(text),), length - 1, device=text.device)
        if self.pool_type == "first":
            return torch.zeros(len(text), dtype=torch.long, device=text.device)
        return pooled_positions(text, self.pool_type, self.eos_id)

    def trim(self, text: Tensor, vocab_size: int | None = None) -> Tensor:
        """Cut off the token ids that cannot change the features.

        In a causal tower no position sees what follows it, and a class token sees no padding except the first. Where
        neither holds the ids are returned whole; so are ids that are not in the CPU's memory, where finding the length
        would stall the device.

        Args:
            text: (B, L) token ids.
            vocab_size: ids are checked against it; None for no check.

        Returns:
            (B, L') with 1 <= L' <= L.

        Raises:
            TokenRangeError: if an id is outside the vocabulary.
        """
        if not is_readable(text):
            return text
        check_vocabulary(text, vocab_size)
        if self.has_class_token or self.pool_type == POOLER:
            return crop_padding(text, self.pad_id)
        if not self.is_causal or self.masks_padding:
            return text
        if self.pool_type == "first":
            return text[:, :1]
        if self.is_found_by_id:
            return text[:, : 1 + int(pooled_positions(text, self.pool_type, self.eos_id).max())]
        return text


def pool_text(x: Tensor, text: Tensor, pool_type: str, eos_id: int) -> Tensor:
    """Select the token that represents each text.

    Args:
        x: (B, L, C) tokens.
        text: (B, L) the ids they came from.
        pool_type: "argmax" for the greatest id (CLIP's end of text), "eos" for the first `eos_id`, "first", "last", or
            "none" for all tokens.
        eos_id: the end-of-text id that "eos" looks for; a text without it is pooled at its first token.

    Returns:
        (B, C), or (B, L, C) if `pool_type` is "none".
    """
    if pool_type == "first":
        return x[:, 0]
    if pool_type == "last":
        return x[:, -1]
    if pool_type == "none":
        return x
    positions = pooled_positions(text, pool_type, eos_id)
    return x[torch.arange(x.shape[0], device=x.device), positions]


def pooled_positions(text: Tensor, pool_type: str, eos_id: int) -> Tensor:
    """Find the positions (B,) that "argmax" or "eos" pooling selects in ids (B, L)."""
    if pool_type == "eos":
        return (text == eos_id).int().argmax(dim=-1)
    return text.argmax(dim=-1)


def crop_padding(text: Tensor, pad_id: int = 0) -> Tensor:
    """Cut off the columns at the end that are padding in every row: (B, L) -> (B, L'), 1 <= L' <= L."""
    used = (text != pad_id).any(dim=0).nonzero()
    return text[:, : 1 + int(used[-1])] if len(used) else text[:, :1]


def is_readable(text: Tensor) -> bool:
    """Return True if ids can be read without a wait for a device; fake tensors have no values."""
    return type(text) is Tensor and text.device.type == "cpu" and text.numel() > 0


def check_vocabulary(text: Tensor, vocab_size: int | None) -> None:
    """Raise TokenRangeError unless all ids (B, L) are below `vocab_size`; None allows any id."""
    if vocab_size is None:
        return
    low, high = (int(bound) for bound in text.aminmax())
    if low < 0 or high >= vocab_size:
        raise TokenRangeError(
            f"token id {low if low < 0 else high} is outside the vocabulary, whose ids are 0 to "
            f"{vocab_size - 1}; was the text tokenized for another model?"
        )
