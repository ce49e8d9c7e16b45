"""`open_clip.timm_model`: visual towers based on timm models."""

from oneclip.config import CLIPVisionCfg
from oneclip.model.siglip import SigLIPVision
from oneclip.model.timm_tower import TimmTower
from open_clip.utils import freeze_batch_norm_2d

__all__ = ["TimmModel", "freeze_batch_norm_2d"]


class _AcceptTimmTower(type):
    """Metaclass that makes timm and SigLIP towers instances of `TimmModel`, as in the published package."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, (TimmTower, SigLIPVision))


class TimmModel(TimmTower, metaclass=_AcceptTimmTower):
    """timm visual tower with the published arguments.

    Args:
        model_name: name of the model in timm.
        embed_dim: D, the width of the features.
        image_size: in pixels; (height, width) if not square.
        pool: a pooling of timm, or "abs_attn" or "rot_attn" for attention pooling over a map.
        proj: "linear", "mlp", "none", or "" for timm's own classifier as the projection.
        proj_bias: add a bias to the projection.
        drop: dropout rate before a linear projection.
        drop_path: fraction of blocks dropped in training; None for timm's default.
        patch_drop: fraction of patches dropped in training; None for timm's default.
        pretrained: download timm's weights and start from them.
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
