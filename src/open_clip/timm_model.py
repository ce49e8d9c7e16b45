"""`open_clip.timm_model`: visual towers of timm's models under their published name."""

from oneclip.config import CLIPVisionCfg
from oneclip.model.siglip import SigLIPVision
from oneclip.model.timm_tower import TimmTower
from open_clip.utils import freeze_batch_norm_2d

__all__ = ["TimmModel", "freeze_batch_norm_2d"]


class _AnyVisualTower(type):
    """Every tower that holds a model of timm's, or what is one there, passes for a `TimmModel`."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, (TimmTower, SigLIPVision))


class TimmModel(TimmTower, metaclass=_AnyVisualTower):
    """A visual tower by the published list of arguments.

    Args:
        model_name: what timm calls it.
        embed_dim: D, the width of the features.
        image_size: pixels; (height, width) when not square.
        pool: timm's pooling, or "abs_attn" or "rot_attn" for one by attention over a map.
        proj: "linear", "mlp", "none", or nothing for timm's own classifier as the projection.
        proj_bias: whether the projection adds a bias.
        drop: share of features left out before a linear projection, in training.
        drop_path: share of blocks left out in training; None for timm's default.
        patch_drop: share of patches left out in training; None for timm's default.
        pretrained: begin with timm's published weights, which are fetched.
    """

    def __init__(
        self,
        model_name: str,
        embed_dim: int,
        image_size: int | tuple[int, int] = 224,
        pool: str = "avg",
        proj: str = "linear",
        proj_bias: bool = False,
        drop: float = 0.0,
        drop_path: float | None = None,
        patch_drop: float | None = None,
        pretrained: bool = False,
    ) -> None:
        cfg = CLIPVisionCfg(
            timm_model_name=model_name,
            image_size=image_size,
            timm_pool=pool,
            timm_proj=proj,
            timm_proj_bias=proj_bias,
            timm_drop=drop,
            timm_drop_path=drop_path,
            patch_dropout=patch_drop or 0.0,
            timm_model_pretrained=pretrained,
        )
        super().__init__(cfg, embed_dim)
