"""Image tower that wraps a model of timm.

Shapes: B batch, (H, W) pixels, C width, D joint embedding.
"""

import inspect
import logging
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, cast

from torch import Tensor, nn

from oneclip import hub
from oneclip.config import CLIPVisionCfg, as_pair
from oneclip.errors import ConfigError, DownloadError, OfflineError, ShapeError, nearest_names
from oneclip.model.freeze import check_count
from oneclip.model.layers import freeze_norm, is_unfrozen_batch_norm
from oneclip.model.optional_package import optional_package

PROJECTIONS = ("linear", "mlp", "none", "", None)
ATTENTION_POOLS = ("abs_attn", "rot_attn")
HEAD = "?"  # a name that no pattern of timm matches


class TimmTower(nn.Module):
    """Model of timm as `trunk`, its features pooled and projected by its own classifier or by `head`.

    Without `timm_proj` the trunk's classifier is the projection; with "linear" or "mlp" `head` is; with "none" there is
    no projection. Activations are timm's, whatever `quick_gelu` says.

    Args:
        cfg: the fields `timm_*`, `image_size` and `patch_dropout`; with `timm_model_pretrained` the trunk starts
            from timm's published weights, which are downloaded.
        embed_dim: D.

    Raises:
        MissingExtraError: without timm.
        ConfigError: if timm has no such model, or it does not take that pooling, projection, dropout or image size.
        OfflineError, DownloadError: if weights cannot be downloaded.
    """

    extra: str | None = "timm"
    output_tokens = False
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
            # a trunk whose features are tokens keeps timm's own pooling, unless another is requested
            changed = {"global_pool": "" if pool in ATTENTION_POOLS else pool}
            _checked(cfg, lambda: self.trunk.reset_classifier(0, **(changed if pool else {})))
        else:
            classes = 0 if cfg.timm_proj == "none" else embed_dim
            self.trunk = _create(cfg, {"num_classes": classes, "global_pool": pool})
        self.head = _head(cfg, pool, self.trunk, embed_dim)
        self._fit(as_pair(cfg.image_size))

    def _fit(self, image_size: tuple[int, int]) -> None:
        """Set the image size of the trunk, if it has a fixed one."""
        own = _fixed_size(self.trunk)
        if own is not None and own != image_size:
            self.set_input_size(image_size)
        self.image_size = image_size
        self.fixed_size = _fixed_size(self.trunk)

    def forward(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: (B, 3, H, W), preprocessed.

        Returns:
            (B, D) features, not normalized.

        Raises:
            ShapeError: if the images do not have the size of the trunk.
        """
        self._check(x)
        return self.head(self.trunk(x))

    @property
    def grid_size(self) -> tuple[int, int] | None:
        """Rows and columns of the trunk's patches; None if it has no such grid."""
        size = getattr(getattr(self.trunk, "patch_embed", None), "grid_size", None)
        return None if size is None else (int(size[0]), int(size[1]))

    @property
    def pooling(self) -> str:
        """Kind of pooling, see `ImageTower`."""
        if len(self.head) and hasattr(self.head, "pool"):
            return "attention"
        kinds = {"token": "token", "avg": "mean", "map": "attention", "": "none"}
        return kinds.get(str(getattr(self.trunk, "global_pool", None)), "other")

    def _check(self, x: Tensor) -> None:
        height, width = self.fixed_size or (x.shape[-2], x.shape[-1])
        if x.ndim != 4 or tuple(x.shape[1:]) != (3, height, width):
            size = f"{height}, {width}" if self.fixed_size else "H, W"
            raise ShapeError(f"the visual tower takes images (B, 3, {size}); found {tuple(x.shape)}")

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
        """Encode images and return the output of chosen blocks or stages of the trunk.

        Args:
            x: (B, 3, H, W), preprocessed.
            indices: which blocks or stages: all (None), the last n (int), or those listed.
            stop_early: with `intermediates_only`, compute nothing past the last one chosen.
            normalize_intermediates: apply the trunk's final norm to them, if it has one.
            intermediates_only: leave out `image_features`.
            output_fmt: "NCHW" maps, or "NLC" tokens if the trunk has tokens.
            output_extra_tokens: also return the tokens that do not represent a patch, if the trunk has any.

        Returns:
            `image_intermediates`, `image_intermediates_prefix` if requested, and `image_features` (B, D) unless left
            out.

        Raises:
            ConfigError: if the trunk does not return intermediates.
            ShapeError: if the images do not have the size of the trunk.
        """
        self._check(x)
        collect = getattr(self.trunk, "forward_intermediates", None)
        if collect is None:
            raise ConfigError(f"timm's {type(self.trunk).__name__} does not return intermediates")
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

    def set_input_size(self, image_size: int | tuple[int, int]) -> None:
        """Change the image size: position tables are resampled, windows are recomputed.

        Args:
            image_size: pixels; (height, width) when not square.

        Raises:
            ConfigError: if the size of the trunk cannot change.
        """
        size = as_pair(image_size)
        change = getattr(self.trunk, "set_input_size", None)
        own = _fixed_size(self.trunk)
        if change is not None:
            try:
                change(img_size=size)
            except (AssertionError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"timm's {type(self.trunk).__name__} does not take images of {size[0]} x {size[1]} pixels: {error}"
                ) from error
        elif own not in (None, size):
            raise ConfigError(
                f"timm's {type(self.trunk).__name__} takes images of {own} pixels only; found {size}"
            )
        self.image_size, self.fixed_size = size, _fixed_size(self.trunk)

    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the trunk except its last groups, as timm groups its layers. The head stays trainable.

        Args:
            unlocked_groups: how many groups stay trainable, from the end; 0 freezes the whole trunk.
            freeze_bn_stats: also freeze the batch norm statistics of frozen groups.

        Raises:
            ConfigError: if `unlocked_groups` is negative, or timm does not group the layers of this trunk.
        """
        check_count(unlocked_groups, "groups")
        if not unlocked_groups:
            frozen = {name for name, _ in self.trunk.named_parameters()}
        else:
            groups = self._group_names(self.trunk)
            last = max(groups) - unlocked_groups
            frozen = {name for index, names in groups.items() if index <= last for name in names}
        for name, parameter in self.trunk.named_parameters():
            if name in frozen:
                parameter.requires_grad = False
        if freeze_bn_stats:
            _freeze_norms(self.trunk, {name.rpartition(".")[0] for name in frozen})

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Group the trunk's parameters by layer, as timm does; those that match none of its patterns are left out.

        Raises:
            ConfigError: if timm does not group the layers of this trunk.
        """
        groups = self._group_names(_TrunkWithHead(self.trunk))
        named = dict(self.trunk.named_parameters())
        return [[named[name] for name in groups[i]] for i in sorted(groups) if HEAD not in groups[i]]

    def _group_names(self, trunk: Any) -> dict[int, list[str]]:
        """Group the names of parameters by layer, lowest first."""
        matcher = getattr(self.trunk, "group_matcher", None)
        if matcher is None:
            raise ConfigError(f"timm does not group the layers of {type(self.trunk).__name__}")
        groups: dict[int, list[str]] = optional_package(
            "timm.models", "A timm tower", "timm"
        ).group_parameters(trunk, matcher())
        return groups

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should skip, in addition to vectors and scalars: none, as published."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute parts of the trunk in the backward pass instead of storing their activations, if timm can."""
        try:
            self.trunk.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError, NotImplementedError) as error:
            if enable:
                logging.getLogger("oneclip").warning(
                    "timm's %s stores all activations: it does not support checkpointing (%s)",
                    type(self.trunk).__name__,
                    error,
                )


class _TrunkWithHead:
    """Parameters of a trunk, and `HEAD`, which matches no pattern: timm puts it into the group of the head."""

    def __init__(self, trunk: nn.Module) -> None:
        self._trunk = trunk

    def named_parameters(self) -> Iterable[tuple[str, Tensor | None]]:
        return chain(self._trunk.named_parameters(), [(HEAD, None)])


def _freeze_norms(trunk: nn.Module, names: set[str]) -> None:
    """Replace the batch norms with these names by frozen ones that share their tensors."""
    for name in names:
        norm = trunk.get_submodule(name) if name else trunk
        if is_unfrozen_batch_norm(norm):
            parent, _, last = name.rpartition(".")
            setattr(trunk.get_submodule(parent), last, freeze_norm(cast(nn.BatchNorm2d, norm)))


def _create(cfg: CLIPVisionCfg, arguments: dict[str, Any]) -> Any:
    """Create the trunk, timm's model of that name."""
    timm = optional_package("timm", "A timm tower", "timm")
    name = cfg.timm_model_name or ""
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        known = nearest_names(name, timm.list_models())
        hint = f"did you mean {', '.join(known)}?" if known else "timm.list_models() has all names."
        raise ConfigError(
            f"timm {timm.__version__} has no model {name!r}: {hint} If the model is new, pip install -U timm"
        )
    if cfg.timm_model_pretrained and hub.offline():
        _only_from_cache(name)
    if cfg.timm_drop_path is not None:
        arguments["drop_path_rate"] = cfg.timm_drop_path
    if cfg.patch_dropout > 0:
        arguments["patch_drop_rate"] = cfg.patch_dropout
    return _checked(cfg, lambda: timm.create_model(name, pretrained=cfg.timm_model_pretrained, **arguments))


def _only_from_cache(name: str) -> None:
    """Raise OfflineError if timm would connect to a server although the network is switched off."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        raise OfflineError(
            f"timm's weights of {name} were requested, but the network is switched off (ONECLIP_OFFLINE). If they "
            "are in the hub's cache, set HF_HUB_OFFLINE=1 to use them"
        )


def _checked(cfg: CLIPVisionCfg, make: Callable[[], Any]) -> Any:
    """Call timm and convert its errors to errors of this library."""
    try:
        return make()
    except (AssertionError, NotImplementedError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, OSError) or (isinstance(error, RuntimeError) and cfg.timm_model_pretrained):
            raise DownloadError(f"timm could not download {cfg.timm_model_name}: {error}") from error
        if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
            raise  # an error of the device, such as lack of memory
        options = ", ".join(
            f"{key}={value!r}"
            for key, value in cfg.to_dict().items()
            if key not in ("image_size", "width", "layers")
        )
        raise ConfigError(f"timm cannot build this visual tower ({options}): {error}") from error


def _head(cfg: CLIPVisionCfg, pool: str, trunk: Any, embed_dim: int) -> nn.Sequential:
    """Make the layers behind the trunk: attention pooling (which includes a projection), then the projection."""
    layers = optional_package("timm.layers", "A timm tower", "timm")
    width, grid = int(trunk.num_features), trunk.pretrained_cfg.get("pool_size")
    head = nn.Sequential()
    if pool in ATTENTION_POOLS:
        if not grid:
            raise ConfigError(
                f"timm_pool {pool!r} needs maps, but {cfg.timm_model_name} returns tokens or features"
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
    """Return the only image size of a trunk, or None if it takes several."""
    size = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    return None if size is None or getattr(trunk, "dynamic_img_size", False) else as_pair(size)
