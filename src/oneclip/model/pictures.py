"""What every visual tower does alike: which pictures it takes, and in what form it gives the tokens of its blocks.

Shapes: B batch, (H, W) pixels, N patches, C width.
"""

from torch import Tensor

from oneclip.errors import ConfigError, ShapeError


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """A size as (height, width), whether it was one number or two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def check_pictures(x: Tensor, image_size: tuple[int, int]) -> None:
    """Raise ShapeError unless `x` is (B, 3, H, W) of the tower's size."""
    if x.ndim != 4 or x.shape[1] != 3 or tuple(x.shape[2:]) != image_size:
        height, width = image_size
        raise ShapeError(f"the visual tower takes pictures (B, 3, {height}, {width}); found {tuple(x.shape)}")


def check_output_format(found: str, known: tuple[str, ...]) -> None:
    """Raise ConfigError unless `found` is one of the formats that a tower can give."""
    if found not in known:
        raise ConfigError(f"output format {found!r} is not one of {', '.join(known)}")


def as_maps(tokens: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Patches in rows, (B, N, C), to maps (B, C, rows, columns)."""
    rows, columns = grid_size
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, rows, columns).contiguous()
