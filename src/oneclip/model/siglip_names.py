"""Names and sizes of SigLIP image towers, such as timm's `vit_base_patch16_siglip_224`."""

import re
from typing import Any, NamedTuple

from oneclip.config import CLIPVisionCfg
from oneclip.errors import ConfigError


class TrunkSize(NamedTuple):
    """Width and depth of a trunk, which its name gives by one word."""

    width: int
    layers: int
    heads: int
    mlp_ratio: float


SIZES = {
    "base": TrunkSize(768, 12, 12, 4.0),
    "large": TrunkSize(1024, 24, 16, 4.0),
    "so400m": TrunkSize(1152, 27, 16, 3.7362),
    "giantopt": TrunkSize(1536, 40, 16, 4.0),
}

# The kind of GELU by size, patch and resolution. It differs between timm's names, and weights of both generations were
# published under one name. (big_vision trained all of them with the tanh approximation.)
GELUS = {
    ("base", 16): {224: "none", 256: "none", 384: "none", 512: "none"},
    ("base", 32): {256: "tanh"},
    ("large", 16): {256: "none", 384: "none", 512: "tanh"},
    ("so400m", 14): {224: "none", 378: "none", 384: "none"},
    ("so400m", 16): {256: "tanh", 384: "tanh", 512: "tanh"},
    ("giantopt", 16): {256: "tanh", 384: "tanh"},
}

EPS = 1e-6  # of layer norms, unless a configuration by numbers has another
NUMBERS = {
    *("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "pool_type"),
    *("act_kwargs", "norm_kwargs", "patch_dropout", "timm_drop_path"),
}  # the fields of a configuration by numbers

ONLY_FIRST = ("vit_so400m_patch14_siglip_384",)  # names without weights of SigLIP 2

_NAME = re.compile(r"vit_([a-z0-9]+)_patch(\d+)_siglip_(\d+)(?:\.(.*))?")  # a tag of weights may follow


class TrunkCfg(NamedTuple):
    """Sizes and activation of a trunk."""

    size: TrunkSize
    patch_size: int
    gelu: str  # "none" for the exact one, or "tanh"
    eps: float = EPS  # of every layer norm

    @classmethod
    def of_name(cls, name: str) -> "TrunkCfg | None":
        """Read a name such as "vit_so400m_patch14_siglip_384"; None if it is not that of a SigLIP trunk."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        size, patch = found[1], int(found[2])
        gelu = GELUS.get((size, patch), {}).get(int(found[3]))
        return None if gelu is None else cls(SIZES[size], patch, gelu)

    @classmethod
    def of_cfg(cls, cfg: CLIPVisionCfg) -> "TrunkCfg | None":
        """Read a configuration with timm's name, or without a name and with `pool_type` "map"; None for other towers.

        Towers of other sizes, and those with another GELU than timm's name has, are described by numbers.

        Raises:
            ConfigError: for numbers that contradict each other, or for fields that this tower does not have.
        """
        if cfg.timm_model_name or cfg.pool_type != "map":
            return cls.of_name(cfg.timm_model_name or "")
        act, norm = cfg.act_kwargs or {}, cfg.norm_kwargs or {}
        unknown = [f"{key}={value!r}" for key, value in cfg.to_dict().items() if key not in NUMBERS]
        unknown += [f"act_kwargs={act}"] * (act not in ({}, {"approximate": "none"}, {"approximate": "tanh"}))
        unknown += [f"norm_kwargs={norm}"] * bool(norm.keys() - {"eps"})
        if unknown:
            raise ConfigError(f"a SigLIP image tower (pool_type 'map') does not take {', '.join(unknown)}")
        if (
            not isinstance(cfg.layers, int)
            or not isinstance(cfg.patch_size, int)
            or cfg.width % cfg.head_width
        ):
            raise ConfigError(
                "a SigLIP image tower needs layers and patch_size of one number each, and a width that is a multiple "
                f"of head_width; found {cfg.layers}, {cfg.patch_size}, {cfg.width} and {cfg.head_width}"
            )
        size = TrunkSize(cfg.width, cfg.layers, cfg.width // cfg.head_width, cfg.mlp_ratio)
        return cls(size, cfg.patch_size, act.get("approximate", "none"), norm.get("eps", EPS))

    def to_cfg(self, image_size: int) -> CLIPVisionCfg:
        """Make the configuration of this trunk at a resolution: by timm's name if there is one, else by numbers."""
        for name in published_names():
            if name.endswith(f"_{image_size}") and TrunkCfg.of_name(name) == self:
                return CLIPVisionCfg(
                    image_size=image_size, timm_model_name=name, timm_pool="map", timm_proj="none"
                )
        return CLIPVisionCfg(
            layers=self.size.layers,
            width=self.size.width,
            head_width=self.size.width // self.size.heads,
            mlp_ratio=self.size.mlp_ratio,
            patch_size=self.patch_size,
            image_size=image_size,
            pool_type="map",
            act_kwargs=None if self.gelu == "none" else {"approximate": self.gelu},
            norm_kwargs=None if self.eps == EPS else {"eps": self.eps},
        )


def is_siglip(cfg: CLIPVisionCfg) -> bool:
    """Return True if a configuration describes a SigLIP tower, which is built without timm."""
    if not cfg.timm_model_name:
        return TrunkCfg.of_cfg(cfg) is not None
    return (
        TrunkCfg.of_name(cfg.timm_model_name or "") is not None
        and cfg.timm_pool == "map"
        and cfg.timm_proj == "none"
        and not cfg.timm_model_pretrained
    )


def published_names() -> list[str]:
    """List timm's names of the trunks that are built without timm."""
    return [
        f"vit_{size}_patch{patch}_siglip_{resolution}"
        for (size, patch), resolutions in GELUS.items()
        for resolution in resolutions
    ]


def own_image_size(name: str | None, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the image size in timm's name; `image_size` if it is not the name of a SigLIP trunk."""
    found = _NAME.fullmatch(name or "")
    return (int(found[3]), int(found[3])) if found else image_size


def pretrained_cfg(name: str | None, image_size: tuple[int, int]) -> dict[str, Any]:
    """Describe the weights and the preprocessing of a trunk in the form of timm's `pretrained_cfg`.

    Args:
        name: timm's name of the trunk, with or without a tag of weights; None for a trunk without a name.
        image_size: height and width of images.
    """
    facts: dict[str, Any] = {
        "custom_load": False,
        "input_size": (3, *image_size),
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    if name is None:
        return facts
    architecture, _, tag = name.partition(".")
    tag = tag or ("webli" if architecture in ONLY_FIRST else "v2_webli")
    weights = {"url": "", "hf_hub_id": f"timm/{architecture}.{tag}", "license": "apache-2.0"}
    return {**weights, "architecture": architecture, "tag": tag, **facts}
