"""Checks and formats that all image towers share.

Shapes: B batch, (H, W) pixels, N patches, C width.
"""

from torch import Tensor, nn

from oneclip.errors import ConfigError, ShapeError


def check_images(x: Tensor, image_size: tuple[int, int] | None, channels: int | None = 3) -> None:
    """Raise ShapeError unless `x` is (B, channels, H, W) of that size; None allows any."""
    height, width = image_size or ("H", "W")
    fits = x.ndim == 4 and channels in (None, x.shape[1]) and image_size in (None, tuple(x.shape[2:]))
    if not fits:
        shape = f"(B, {channels or 'C'}, {height}, {width})"
        raise ShapeError(f"the visual tower takes images {shape}; found {tuple(x.shape)}")


def channels_of(layer: nn.Module) -> int | None:
    """Return how many channels the first layer of a tower reads; None if it is not a convolution."""
    return layer.in_channels if isinstance(layer, nn.Conv2d) else None


def check_patches(found: int, expected: int) -> None:
    """Raise ShapeError unless images have as many patches as the tower has positions."""
    if found != expected:
        raise ShapeError(
            f"these images have {found} patches, and the visual tower has positions for {expected}"
        )


def check_output_format(found: str, known: tuple[str, ...]) -> None:
    """Raise ConfigError unless a tower can return intermediates in the format `found`."""
    if found not in known:
        raise ConfigError(f"output format {found!r} is not one of {', '.join(known)}")


def as_maps(tokens: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Reshape patches in rows, (B, N, C), to maps (B, C, rows, columns)."""
    rows, columns = grid_size
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, rows, columns).contiguous()
