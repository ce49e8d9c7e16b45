"""Base of every dual encoder: features, logits, intermediates and locks from two towers.

Shapes: B batch, N images, M texts, L tokens, D joint embedding.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.errors import ConfigError
from oneclip.model.protocols import ImageTower
from oneclip.model.text_pooling import TextPooling

Outputs = dict[str, Any] | tuple[Any, ...]


class DualEncoder(nn.Module):
    """Shared base of `CLIP`, `CustomTextCLIP` and `CoCa`: a visual tower, a text tower and a temperature."""

    visual: nn.Module
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None
    output_dict: bool

    def _init_scale(
        self, init_logit_scale: float, init_logit_bias: float | None, nonscalar_logit_scale: bool
    ) -> None:
        """Register the temperature, and the bias if there is one."""
        shape = [1] if nonscalar_logit_scale else []
        self.logit_scale = nn.Parameter(torch.full(shape, float(init_logit_scale)))
        bias = (
            nn.Parameter(torch.full(shape, float(init_logit_bias))) if init_logit_bias is not None else None
        )
        self.register_parameter("logit_bias", bias)

    def image_tower(self) -> ImageTower:
        """Return `visual`, typed by its contract."""
        return cast(ImageTower, self.visual)

    @abstractmethod
    def text_module(self) -> nn.Module:
        """Return the module that holds the parts of the text tower: the model itself, or its `text`."""

    @abstractmethod
    def text_parts(self) -> list[nn.Module]:
        """List the modules of the text tower, each with all that is below it."""

    @abstractmethod
    def text_pooling(self) -> TextPooling:
        """Return which position of a text is pooled, whether padding is read and what may be cut."""

    @abstractmethod
    def text_layer_groups(self) -> list[list[nn.Parameter]]:
        """Group the parameters of the text tower by layer, as `TextTower.layer_groups` does."""

    @abstractmethod
    def trim(self, text: Tensor) -> Tensor:
        """Check token ids (B, L) and cut off those that cannot change the features."""

    @abstractmethod
    def trim_unseen(self, text: Tensor) -> Tensor:
        """Apply `trim` where no hook, patch or replaced part could see the difference; else return the ids."""

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Encode images.

        Args:
            image: (B, 3, H, W), preprocessed.
            normalize: scale each feature vector to unit length.

        Returns:
            (B, D). A tower with `output_tokens` also returns its tokens, unless the features are normalized.
        """
        return self._features(self.visual(image), normalize)

    @abstractmethod
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Encode texts.

        Args:
            text: (B, L) token ids, L up to the context length.
            normalize: scale each feature vector to unit length.

        Returns:
            (B, D).
        """

    def get_logits(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the cosine similarity times the temperature, plus the bias if there is one.

        Args:
            image: (N, 3, H, W).
            text: (M, L).

        Returns:
            (N, M) logits for each image, and their transpose (M, N) for each text.
        """
        return self._logits(self.encode_image(image, normalize=True), self.encode_text(text, normalize=True))

    def _features(self, output: Any, normalize: bool) -> Tensor:
        """Return the output of a tower, or its features alone, normalized."""
        if not normalize:
            return output
        return F.normalize(output if isinstance(output, Tensor) else output[0], dim=-1)

    def _logits(self, image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
        image_logits = self.logit_scale.exp() * image_features @ text_features.T
        if self.logit_bias is not None:
            image_logits = image_logits + self.logit_bias
        return image_logits, image_logits.transpose(0, -1)

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> Outputs:
        """Encode images, texts or both, normalized.

        Args:
            image: (N, 3, H, W).
            text: (M, L).

        Returns:
            With `output_dict`, a dict of `image_features` (N, D), `text_features` (M, D), `logit_scale` exponentiated,
            and `logit_bias` if there is one; else the tuple of those three or four. A missing input gives None.
        """
        image_features = self.encode_image(image, normalize=True) if image is not None else None
        text_features = self.encode_text(text, normalize=True) if text is not None else None
        scale = self.logit_scale.exp()
        if self.output_dict:
            output = {"image_features": image_features, "text_features": text_features, "logit_scale": scale}
            if self.logit_bias is not None:
                output["logit_bias"] = self.logit_bias
            return output
        if self.logit_bias is None:
            return image_features, text_features, scale
        return image_features, text_features, scale, self.logit_bias

    def _cast(self, image: Tensor) -> Tensor:
        """Prepare images for the visual tower; a subclass may cast them."""
        return image

    def forward_intermediates(
        self,
        image: Tensor | None = None,
        text: Tensor | None = None,
        image_indices: int | list[int] | None = None,
        text_indices: int | list[int] | None = None,
        stop_early: bool = False,
        normalize: bool = True,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        image_output_fmt: str = "NCHW",
        image_output_extra_tokens: bool = False,
        text_output_fmt: str = "NLC",
        text_output_extra_tokens: bool = False,
        output_logits: bool = False,
        output_logit_scale_bias: bool = False,
    ) -> dict[str, Tensor | list[Tensor]]:
        """Encode images, texts or both, and return the output of chosen blocks of each tower.

        Args:
            image: (N, 3, H, W).
            text: (M, L).
            image_indices: which blocks of the visual tower: all (None), the last n (int), or those listed.
            text_indices: the same for the text tower.
            stop_early: with `intermediates_only`, compute nothing past the last block chosen in each tower.
            normalize: scale the features to unit length.
            normalize_intermediates: apply each tower's final norm to its intermediates.
            intermediates_only: leave out features and logits.
            image_output_fmt: "NCHW" or "NLC".
            image_output_extra_tokens: also return `image_intermediates_prefix`.
            text_output_fmt: "NLC".
            text_output_extra_tokens: also return `text_intermediates_suffix`, if the tower has a class token.
            output_logits: also return `image_logits` (N, M) and `text_logits` (M, N), from normalized or raw features
                as `normalize` says.
            output_logit_scale_bias: also return `logit_scale`, exponentiated, and `logit_bias` if there is one.

        Returns:
            A dict with `image_intermediates`, `image_features`, `text_intermediates`, `text_features` and the keys
            named above, as far as they were requested.

        Raises:
            ConfigError: if logits are requested without both inputs, or an index or format is not known.
        """
        output_logits = output_logits and not intermediates_only
        if output_logits and (image is None or text is None):
            raise ConfigError("logits compare images with texts: give both image and text")
        output: dict[str, Any] = {}
        common = (stop_early, normalize_intermediates, intermediates_only)
        if image is not None:
            extra = (image_output_fmt, image_output_extra_tokens)
            output |= self.image_tower().forward_intermediates(
                self._cast(image), image_indices, *common, *extra
            )
        if text is not None:
            extra = (text_output_fmt, text_output_extra_tokens)
            output |= self._text_intermediates(text, text_indices, *common, *extra)
        if normalize and not intermediates_only:
            for key in ("image_features", "text_features"):
                if key in output:
                    output[key] = F.normalize(output[key], dim=-1)
        if output_logits:
            image_logits, text_logits = self._logits(output["image_features"], output["text_features"])
            output.update(image_logits=image_logits, text_logits=text_logits)
        if output_logit_scale_bias:
            output["logit_scale"] = self.logit_scale.exp()
            if self.logit_bias is not None:
                output["logit_bias"] = self.logit_bias
        return output

    @abstractmethod
    def _text_intermediates(self, text: Tensor, *arguments: Any) -> dict[str, Any]:
        """Call `TextTower.forward_intermediates` of the text tower."""

    def lock_image_tower(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the visual tower except its last groups (Zhai et al. 2022, LiT); see the tower's `lock`."""
        self.image_tower().lock(unlocked_groups=unlocked_groups, freeze_bn_stats=freeze_bn_stats)

    @abstractmethod
    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the text tower except its last groups; see the tower's `lock`."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block of both towers in the backward pass instead of storing its activations."""
        self.image_tower().set_grad_checkpointing(enable)
        self._set_text_grad_checkpointing(enable)

    @abstractmethod
    def _set_text_grad_checkpointing(self, enable: bool) -> None:
        """Call `TextTower.set_grad_checkpointing` of the text tower."""

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should skip, in addition to vectors and scalars."""
        return {
            f"visual.{name}" for name in self.image_tower().no_weight_decay()
        } | self._text_no_weight_decay()

    @abstractmethod
    def _text_no_weight_decay(self) -> set[str]:
        """Name the parameters of the text tower that weight decay should skip, as the model names them."""


def as_cfg(kind: Any, value: Any) -> Any:
    """Read a configuration from a mapping of its fields; return a configuration unchanged."""
    return kind.from_dict(value) if isinstance(value, Mapping) else value
