"""Freezing a tower but for its last groups (locked-image tuning, Zhai et al. 2022)."""

from collections.abc import Sequence

from torch import nn

from oneclip.errors import ConfigError

Part = nn.Module | nn.Parameter | None


def unlock_last(groups: Sequence[Sequence[Part]], count: int, keep_norms: bool = False) -> None:
    """Make only the last `count` groups trainable.

    Args:
        groups: all parts of a tower, from the input to the output; None parts are passed over.
        count: how many groups stay trainable, from the end; all when there are fewer.
        keep_norms: leave the weights of the layer norms in the frozen groups trainable.

    Raises:
        ConfigError: if `count` is negative.
    """
    if count < 0:
        raise ConfigError(f"{count} groups cannot stay unlocked; give 0 to lock all of them")
    unlocked = groups[len(groups) - count :] if count < len(groups) else groups
    for group in groups:
        for part in group:
            _set_trainable(part, False)
    for group in unlocked:
        for part in group:
            _set_trainable(part, True)
    if keep_norms:
        modules = [part for group in groups for part in group if isinstance(part, nn.Module)]
        for norm in (m for module in modules for m in module.modules() if isinstance(m, nn.LayerNorm)):
            _set_trainable(norm, True)


def _set_trainable(part: Part, trainable: bool) -> None:
    if isinstance(part, nn.Parameter):
        part.requires_grad = trainable
    elif part is not None:
        for parameter in part.parameters():
            parameter.requires_grad = trainable
