"""Contract of a tower: the members that the rest of the library may use.

Code outside `oneclip.model` and `oneclip.engine` asks a tower for these members and never for its class. A new tower is
a module with these members and a row in `build.IMAGE_TOWERS` or `build.TEXT_TOWERS`; see docs/towers.md.

An inference plan needs nothing more: a tower without a plan of its own is copied to the precision of the plan, so its
`forward` must depend on its input, its parameters and its buffers only.

Shapes: B batch, (H, W) pixels, L tokens, D joint embedding.
"""

from typing import Any, Protocol

from torch import Tensor, nn

from oneclip.model.text_pooling import TextPooling

Features = Tensor | tuple[Tensor, Tensor]  # with `output_tokens` a tower also returns its tokens
Intermediates = dict[str, Any]


class ImageTower(Protocol):
    """Module that encodes images.

    Attributes:
        image_size: the size that the tower was built for, in pixels; (height, width) if not square.
        output_dim: D.
        grid_size: rows and columns of the patches, or of the cells that are pooled; None without such a grid.
        pooling: how patches become one vector: "token" (a class token), "mean", "attention" or "none"; "other" if
            only the tower knows.
        extra: the extra of this distribution that must be installed, if any.
    """

    @property
    def image_size(self) -> int | tuple[int, int]: ...

    @property
    def output_dim(self) -> int: ...

    @property
    def extra(self) -> str | None: ...

    @property
    def grid_size(self) -> tuple[int, int] | None: ...

    @property
    def pooling(self) -> str: ...

    def forward(self, x: Tensor) -> Features:
        """Encode images (B, 3, H, W) as features (B, D), not normalized."""
        ...

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NCHW",
        output_extra_tokens: bool = False,
    ) -> Intermediates:
        """Encode images and return `image_intermediates` of the chosen blocks, and `image_features`."""
        ...

    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze all layers except the last `unlocked_groups`."""
        ...

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of storing them."""
        ...

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Group the parameters by layer, lowest first: embeddings or stem, then each block or stage.

        What follows the last block (final norm, pooling, projection) is the head and is left out.
        """
        ...

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should skip, in addition to vectors and scalars."""
        ...


class TextTower(Protocol):
    """Module that encodes texts.

    Attributes:
        context_length: L at most.
        vocab_size: number of token ids.
        output_tokens: `forward` also returns the tokens.
        extra: the extra of this distribution that must be installed, if any.
    """

    @property
    def context_length(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def output_tokens(self) -> bool: ...

    @property
    def extra(self) -> str | None: ...

    def forward(self, text: Tensor) -> Features:
        """Encode token ids (B, L) as features (B, D), not normalized."""
        ...

    def text_pooling(self) -> TextPooling:
        """Return which position is pooled, whether padding is read and what may be cut."""
        ...

    def trim(self, text: Tensor) -> Tensor:
        """Check token ids (B, L) and cut off those that cannot change the features."""
        ...

    def forward_intermediates(
        self,
        text: Tensor,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NLC",
        output_extra_tokens: bool = False,
    ) -> Intermediates:
        """Encode texts and return `text_intermediates` of the chosen blocks, and `text_features`."""
        ...

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze all layers except the last `unlocked_layers`."""
        ...

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of storing them."""
        ...

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Group the parameters by layer, lowest first, as in `ImageTower`."""
        ...

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should skip, in addition to vectors and scalars."""
        ...
