"""Visual tower of a timm model: pictures to feature vectors.

Shapes: B batch, (H, W) pixels, C width, D joint embedding.
"""

import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from oneclip import hub
from oneclip.config import CLIPVisionCfg
from oneclip.errors import ConfigError, DownloadError, OfflineError, ShapeError, nearest
from oneclip.model.layers import frozen as frozen_norm
from oneclip.model.layers import is_unfrozen_batch_norm
from oneclip.model.optional_package import optional_package
from oneclip.model.scripting import unscripted

PROJECTIONS = ("linear", "mlp", "none", "", None)
ATTENTION_POOLS = ("abs_attn", "rot_attn")


class TimmTower(nn.Module):
    """A model of timm's as `trunk`, its features pooled and projected by its own classifier or by `head`.

    Without `timm_proj` the trunk's classifier is the projection; with "linear" or "mlp" it is a `head` of its own;
    with "none" there is none. Activations are timm's, whatever `quick_gelu` says.

    Args:
        cfg: the fields `timm_*`, `image_size` and `patch_dropout`; with `timm_model_pretrained` the trunk begins with
            timm's published weights, which are fetched.
        embed_dim: D.

    Raises:
        MissingExtraError: without timm.
        ConfigError: if timm has no such model, or it does not take such a pooling, projection, dropout or image size.
        OfflineError, DownloadError: if weights cannot be fetched.
    """

    if TYPE_CHECKING:  # TorchScript reads annotations of a class, and knows no Any among them
        trunk: Any
        head: nn.Sequential

    def __init__(self, cfg: CLIPVisionCfg, embed_dim: int) -> None:
        super().__init__()
        if cfg.timm_proj not in PROJECTIONS:
            raise ConfigError(f"timm_proj is {cfg.timm_proj!r}; expected 'linear', 'mlp', 'none' or None")
        pool = cfg.timm_pool or ""
        projects = cfg.timm_proj in ("linear", "mlp")
        self.output_dim = embed_dim
        if projects or pool in ATTENTION_POOLS:
            self.trunk = _create(cfg, {})
            # of a trunk whose features are tokens timm's own pooling stays, unless another is asked for
            changed = {"global_pool": "" if pool in ATTENTION_POOLS else pool}
            _checked(cfg, lambda: self.trunk.reset_classifier(0, **(changed if pool else {})))
        else:
            classes = 0 if cfg.timm_proj == "none" else embed_dim
            self.trunk = _create(cfg, {"num_classes": classes, "global_pool": pool})
        self.head = _head(cfg, pool, self.trunk, embed_dim)
        self._fit(_pair(cfg.image_size))

    @unscripted
    def _fit(self, image_size: tuple[int, int]) -> None:
        """Make the trunk take pictures of a size, if it does not take any."""
        own = _fixed_size(self.trunk)
        if own is not None and own != image_size:
            self.set_input_size(image_size)
        self.image_size = image_size
        self.fixed_size = _fixed_size(self.trunk)

    def forward(self, x: Tensor) -> Tensor:
        """Encode pictures.

        Args:
            x: (B, 3, H, W), preprocessed.

        Returns:
            (B, D) features, not normalised.

        Raises:
            ShapeError: if the pictures are not of the size that the trunk takes.
        """
        if not torch.jit.is_scripting():
            self._check(x)
        x = self.head(self.trunk(x))
        return x

    @unscripted
    def _check(self, x: Tensor) -> None:
        height, width = self.fixed_size or (x.shape[-2], x.shape[-1])
        if x.ndim != 4 or tuple(x.shape[1:]) != (3, height, width):
            size = f"{height}, {width}" if self.fixed_size else "H, W"
            raise ShapeError(f"the visual tower takes pictures (B, 3, {size}); found {tuple(x.shape)}")

    @unscripted
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NCHW",
        output_extra_tokens: bool = False,
    ) -> dict[str, Tensor | list[Tensor]]:
        """Encode pictures and keep what chosen blocks or stages of the trunk gave.

        Args:
            x: (B, 3, H, W), preprocessed.
            indices: which of them: all (None), the last n (int), or those listed.
            stop_early: with `intermediates_only`, compute nothing past the last one chosen.
            normalize_intermediates: apply the trunk's final norm to them, where it has one for them.
            intermediates_only: leave out `image_features`.
            output_fmt: "NCHW" maps, or "NLC" tokens where the trunk has tokens.
            output_extra_tokens: also give the tokens that stand for no patch, where the trunk has such.

        Returns:
            `image_intermediates`, `image_intermediates_prefix` if asked for, and `image_features` (B, D) unless left
            out.

        Raises:
            ConfigError: if the trunk gives no intermediates.
            ShapeError: if the pictures are not of the size that the trunk takes.
        """
        self._check(x)
        collect = getattr(self.trunk, "forward_intermediates", None)
        if collect is None:
            raise ConfigError(f"timm's {type(self.trunk).__name__} gives no intermediates")
        arguments: dict[str, Any] = {
            "indices": indices,
            "norm": normalize_intermediates,
            "stop_early": stop_early and intermediates_only,  # else the features would lack the last blocks
            "output_fmt": output_fmt,
            "intermediates_only": intermediates_only,
        }
        if output_extra_tokens and "return_prefix_tokens" in inspect.signature(collect).parameters:
            arguments["return_prefix_tokens"] = True
        found = collect(x, **arguments)
        kept = found if intermediates_only else found[1]
        output: dict[str, Tensor | list[Tensor]] = {}
        if kept and isinstance(kept[0], tuple):
            output["image_intermediates_prefix"] = [prefix for _, prefix in kept]
            kept = [patches for patches, _ in kept]
        output["image_intermediates"] = kept
        if not intermediates_only:
            output["image_features"] = self.head(self.trunk.forward_head(found[0]))
        return output

    @unscripted
    def set_input_size(self, image_size: int | tuple[int, int]) -> None:
        """Take pictures of another size from now on: position tables are resampled, windows cut anew.

        Args:
            image_size: pixels; (height, width) when not square.

        Raises:
            ConfigError: if the trunk has one size only.
        """
        size = _pair(image_size)
        change = getattr(self.trunk, "set_input_size", None)
        own = _fixed_size(self.trunk)
        if change is not None:
            try:
                change(img_size=size)
            except (AssertionError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"timm's {type(self.trunk).__name__} takes no pictures of {size[0]} x {size[1]} pixels: {error}"
                ) from error
        elif own not in (None, size):
            raise ConfigError(
                f"timm's {type(self.trunk).__name__} takes images of {own} pixels only; found {size}"
            )
        self.image_size, self.fixed_size = size, _fixed_size(self.trunk)

    @unscripted
    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the trunk but for its last groups, as timm groups its layers. The head stays trainable.

        Args:
            unlocked_groups: how many groups stay trainable, from the end; 0 freezes the trunk whole.
            freeze_bn_stats: also hold the batch norm statistics of what is frozen still.

        Raises:
            ConfigError: if `unlocked_groups` is negative, or timm knows no groups of this trunk.
        """
        if unlocked_groups < 0:
            raise ConfigError(f"{unlocked_groups} groups cannot stay unlocked; give 0 to lock all of them")
        if not unlocked_groups:
            frozen = {name for name, _ in self.trunk.named_parameters()}
        else:
            matcher = getattr(self.trunk, "group_matcher", None)
            if matcher is None:
                raise ConfigError(
                    f"timm knows no groups of layers of {type(self.trunk).__name__}: lock all of it"
                )
            groups = optional_package("timm.models", "A timm tower", "timm").group_parameters(
                self.trunk, matcher()
            )
            last = max(groups) - unlocked_groups
            frozen = {name for index, names in groups.items() if index <= last for name in names}
        for name, parameter in self.trunk.named_parameters():
            if name in frozen:
                parameter.requires_grad = False
        if freeze_bn_stats:
            _freeze_norms(self.trunk, {name.rpartition(".")[0] for name in frozen})

    @unscripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute parts of the trunk in the backward pass instead of keeping their activations, where timm can."""
        try:
            self.trunk.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError, NotImplementedError) as error:
            if enable:
                warnings.warn(
                    f"timm's {type(self.trunk).__name__} keeps all activations: it knows no checkpointing ({error})",
                    stacklevel=2,
                )


def _freeze_norms(trunk: nn.Module, names: set[str]) -> None:
    """Replace the batch norms of those names by frozen ones that share their tensors."""
    for name in names:
        norm = trunk.get_submodule(name) if name else trunk
        if is_unfrozen_batch_norm(norm):
            parent, _, last = name.rpartition(".")
            setattr(trunk.get_submodule(parent), last, frozen_norm(cast(nn.BatchNorm2d, norm)))


def _create(cfg: CLIPVisionCfg, arguments: dict[str, Any]) -> Any:
    """The trunk: timm's model of that name."""
    timm = optional_package("timm", "A timm tower", "timm")
    name = cfg.timm_model_name or ""
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        known = nearest(name, timm.list_models())
        hint = f"did you mean {', '.join(known)}?" if known else "timm.list_models() has all names."
        raise ConfigError(
            f"timm {timm.__version__} has no model {name!r}: {hint} If it is new, pip install -U timm"
        )
    if cfg.timm_model_pretrained and hub.offline():
        _only_from_cache(name)
    if cfg.timm_drop_path is not None:
        arguments["drop_path_rate"] = cfg.timm_drop_path
    if cfg.patch_dropout > 0:
        arguments["patch_drop_rate"] = cfg.patch_dropout
    return _checked(cfg, lambda: timm.create_model(name, pretrained=cfg.timm_model_pretrained, **arguments))


def _only_from_cache(name: str) -> None:
    """Raise OfflineError where timm would ask a server all the same."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        raise OfflineError(
            f"timm's weights of {name} were asked for, while the network is switched off (ONECLIP_OFFLINE). If they "
            "are in the hub's cache, HF_HUB_OFFLINE=1 takes them from there"
        )


def _checked(cfg: CLIPVisionCfg, make: Callable[[], Any]) -> Any:
    """What timm makes, its refusals as errors of ours."""
    try:
        return make()
    except (AssertionError, NotImplementedError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, OSError) or (isinstance(error, RuntimeError) and cfg.timm_model_pretrained):
            raise DownloadError(f"timm could not fetch {cfg.timm_model_name}: {error}") from error
        if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
            raise  # of the device, such as memory that is full
        options = ", ".join(
            f"{key}={value!r}"
            for key, value in cfg.to_dict().items()
            if key not in ("image_size", "width", "layers")
        )
        raise ConfigError(f"timm cannot make this visual tower ({options}): {error}") from error


def _head(cfg: CLIPVisionCfg, pool: str, trunk: Any, embed_dim: int) -> nn.Sequential:
    """What follows the trunk: pooling by attention (which projects itself), then the projection."""
    layers = optional_package("timm.layers", "A timm tower", "timm")
    width, grid = int(trunk.num_features), trunk.pretrained_cfg.get("pool_size")
    head = nn.Sequential()
    if pool in ATTENTION_POOLS:
        if not grid:
            raise ConfigError(
                f"timm_pool {pool!r} takes maps; {cfg.timm_model_name} gives tokens or features"
            )
        if pool == "abs_attn":
            head.add_module("pool", layers.AttentionPool2d(width, feat_size=grid, out_features=embed_dim))
        else:
            head.add_module("pool", layers.RotAttentionPool2d(width, out_features=embed_dim))
        width = embed_dim
    if cfg.timm_proj == "linear":
        head.add_module("drop", nn.Dropout(cfg.timm_drop))
        head.add_module("proj", nn.Linear(width, embed_dim, bias=cfg.timm_proj_bias))
    elif cfg.timm_proj == "mlp":
        drops, biases = (cfg.timm_drop, 0.0), (True, cfg.timm_proj_bias)
        head.add_module("mlp", layers.Mlp(width, 2 * embed_dim, embed_dim, drop=drops, bias=biases))
    return head


def _fixed_size(trunk: Any) -> tuple[int, int] | None:
    """The one size of pictures that a trunk takes, or None if it takes many."""
    size = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    return None if size is None or getattr(trunk, "dynamic_img_size", False) else _pair(size)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
