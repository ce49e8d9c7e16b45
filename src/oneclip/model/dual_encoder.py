"""Features of pictures and of captions to what every dual encoder gives: logits, intermediates, locks.

Shapes: B batch, N pictures, M captions, L tokens, D joint embedding.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.errors import ConfigError
from oneclip.model.scripting import unscripted
from oneclip.model.text import TextTower

if TYPE_CHECKING:
    from oneclip.model.hf_tower import HFTextTower

    Outputs = dict[str, Any] | tuple[Any, ...]
else:
    Outputs = Any  # TorchScript knows no union of these two


class DualEncoder(nn.Module):
    """What `CLIP`, `CustomTextCLIP` and `CoCa` share: a visual tower, a temperature, and what is made of features."""

    if TYPE_CHECKING:  # TorchScript reads annotations of a class, and knows no modules among them
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

    @torch.jit.export
    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Encode pictures.

        Args:
            image: (B, 3, H, W), preprocessed.
            normalize: make each feature vector of unit length.

        Returns:
            (B, D). A tower with `output_tokens` adds its tokens, unless the features are to be normalised.
        """
        return self._features(self.visual(image), normalize)

    @abstractmethod
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Encode captions.

        Args:
            text: (B, L) token ids, L up to the context length.
            normalize: make each feature vector of unit length.

        Returns:
            (B, D).
        """

    def get_logits(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine similarity times the temperature, plus the bias if there is one.

        Args:
            image: (N, 3, H, W).
            text: (M, L).

        Returns:
            (N, M) logits for each picture, and their transpose (M, N) for each caption.
        """
        return self._logits(self.encode_image(image, normalize=True), self.encode_text(text, normalize=True))

    def _features(self, output: Tensor | tuple[Tensor, Tensor], normalize: bool) -> Tensor:
        """What a tower gave, normalised without its tokens, or as it is; TorchScript, with one type, drops them."""
        features = output if isinstance(output, Tensor) else output[0]
        if normalize:
            return F.normalize(features, dim=-1)
        if torch.jit.is_scripting():
            return features
        else:
            return output  # type: ignore[return-value]

    def _logits(self, image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
        image_logits = self.logit_scale.exp() * image_features @ text_features.T
        if self.logit_bias is not None:
            image_logits = image_logits + self.logit_bias
        return image_logits, image_logits.transpose(0, -1)

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> Outputs:
        """Encode what is given, normalised.

        Args:
            image: (N, 3, H, W).
            text: (M, L).

        Returns:
            With `output_dict`, a dict of `image_features` (N, D), `text_features` (M, D), `logit_scale` exponentiated,
            and `logit_bias` if there is one; else the tuple of those three or four. What was not given is None.
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

    @unscripted
    def _cast(self, image: Tensor) -> Tensor:
        """What a subclass does to pictures before its visual tower sees them."""
        return image

    @unscripted
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
        """Encode what is given and keep what chosen blocks of each tower gave.

        Args:
            image: (N, 3, H, W).
            text: (M, L).
            image_indices: which blocks of the visual tower: all (None), the last n (int), or those listed.
            text_indices: likewise, of the text tower.
            stop_early: with `intermediates_only`, compute nothing past the last block chosen in each tower.
            normalize: make the features of unit length.
            normalize_intermediates: apply each tower's final norm to its intermediates.
            intermediates_only: leave out features and logits.
            image_output_fmt: "NCHW" or "NLC".
            image_output_extra_tokens: also give `image_intermediates_prefix`.
            text_output_fmt: "NLC".
            text_output_extra_tokens: also give `text_intermediates_suffix`, where the tower has a class token.
            output_logits: also give `image_logits` (N, M) and `text_logits` (M, N), of normalised or raw features as
                `normalize` says.
            output_logit_scale_bias: also give `logit_scale`, exponentiated, and `logit_bias` if there is one.

        Returns:
            A dict of what was asked for: `image_intermediates`, `image_features`, `text_intermediates`,
            `text_features`, and the keys named above.

        Raises:
            ConfigError: if logits are asked for without both inputs, or an index or format is not known.
        """
        output_logits = output_logits and not intermediates_only
        if output_logits and (image is None or text is None):
            raise ConfigError("logits compare pictures with captions: give both image and text")
        output: dict[str, Any] = {}
        common = (stop_early, normalize_intermediates, intermediates_only)
        if image is not None:
            tower = cast(Any, self.visual)
            extra = (image_output_fmt, image_output_extra_tokens)
            output.update(tower.forward_intermediates(self._cast(image), image_indices, *common, *extra))
        if text is not None:
            output.update(
                self._text_tower()._text_intermediates(
                    text, text_indices, *common, text_output_fmt, text_output_extra_tokens
                )
            )
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

    @unscripted
    def lock_image_tower(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the visual tower but for its last groups (Zhai et al. 2022, LiT); see the tower's `lock`."""
        cast(Any, self.visual).lock(unlocked_groups=unlocked_groups, freeze_bn_stats=freeze_bn_stats)

    @unscripted
    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the text tower but for its last groups; see the tower's `lock`."""
        self._text_tower()._lock_text(unlocked_layers, freeze_layer_norm)

    @unscripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations, in both towers."""
        cast(Any, self.visual).set_grad_checkpointing(enable)
        self._text_tower()._checkpoint_text(enable)

    @unscripted
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should pass over, besides vectors and scalars."""
        of_visual: set[str] = getattr(self.visual, "no_weight_decay", set)()
        return {f"visual.{name}" for name in of_visual}

    @abstractmethod
    def _text_tower(self) -> "TextTower | HFTextTower":
        """What holds the text tower's parameters: the model itself, or its `text`."""


def as_cfg(kind: Any, value: Any) -> Any:
    """A configuration of a kind, of a mapping of its fields or as it is."""
    return kind.from_dict(value) if isinstance(value, Mapping) else value
