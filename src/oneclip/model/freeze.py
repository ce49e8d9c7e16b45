"""Freezing of all layers of a tower except the last ones (locked-image tuning, Zhai et al. 2022)."""

from collections.abc import Iterable, Sequence
from itertools import chain

from torch import nn

from oneclip.errors import ConfigError

Part = nn.Module | nn.Parameter | None


def parameters_of(parts: Iterable[Part]) -> list[nn.Parameter]:
    """List the parameters of modules and parameters; None is skipped."""
    found = (
        part.parameters() if isinstance(part, nn.Module) else [part] for part in parts if part is not None
    )
    return list(chain.from_iterable(found))


def unlock_last(
    groups: Sequence[Sequence[nn.Parameter]], count: int, norms: Iterable[nn.Parameter] = ()
) -> None:
    """Make only the last `count` groups trainable.

    Args:
        groups: all parameters of a tower, from the input to the output.
        count: how many groups stay trainable, from the end; all of them if there are fewer.
        norms: parameters that stay trainable in any group.

    Raises:
        ConfigError: if `count` is negative.
    """
    check_count(count, "groups")
    first = max(0, len(groups) - count)
    for index, group in enumerate(groups):
        for parameter in group:
            parameter.requires_grad = index >= first
    for parameter in norms:
        parameter.requires_grad = True


def check_count(count: int, what: str) -> None:
    """Raise ConfigError if a number of groups or layers to unlock is negative."""
    if count < 0:
        raise ConfigError(f"{count} {what} cannot stay unlocked; give 0 to lock all of them")
