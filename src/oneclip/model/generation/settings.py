"""How captions are to be written, checked before any is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oneclip.errors import ConfigError

KINDS = ("beam_search", "top_p", "top_k")


@dataclass(frozen=True)
class Search:
    """The arguments of `CoCa.generate`, which explains them.

    Raises:
        ConfigError: if they contradict each other; what the kind of search does not use is not looked at.
    """

    generation_type: str
    seq_len: int
    max_seq_len: int
    min_seq_len: int
    temperature: float
    top_p: float
    top_k: int
    num_beams: int
    num_beam_groups: int
    repetition_penalty: float
    fixed_output_length: bool
    pad_id: int
    eos_ids: tuple[int, ...]
    sot_id: int
    stopping_criteria: tuple[Callable[..., Any], ...] | None

    def __post_init__(self) -> None:
        kind = self.generation_type
        if kind not in KINDS:
            raise ConfigError(f"generation_type is {kind!r}; expected one of {', '.join(KINDS)}")
        if self.seq_len <= self.min_seq_len:
            raise ConfigError(
                f"seq_len must be more than min_seq_len; found {self.seq_len} and {self.min_seq_len}"
            )
        if self.max_seq_len < 1:
            raise ConfigError(f"max_seq_len is {self.max_seq_len}; at least one token has to be read")
        if not self.eos_ids:
            raise ConfigError("eos_token_id names no token: without an end of text no caption ends")
        if not self.repetition_penalty > 0:
            raise ConfigError(f"repetition_penalty is {self.repetition_penalty}; expected more than 0")
        if kind == "beam_search":
            beams, groups = self.num_beams, self.num_beam_groups
            if beams < 1 or groups < 1 or beams % groups:
                raise ConfigError(
                    f"{beams} beams cannot be kept in {groups} groups of equal size: choose num_beams as a multiple "
                    "of num_beam_groups"
                )
        elif not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}; expected more than 0; top_k=1 is greedy")
        elif kind == "top_k" and self.top_k < 1:
            raise ConfigError(f"top_k is {self.top_k}; expected 1 or more")
        elif kind == "top_p" and not 0 <= self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; expected a probability, from 0 to 1")

    @property
    def longest(self) -> int | None:
        """The most tokens of a caption, the end of text included, as far as that is known beforehand."""
        if self.stopping_criteria is None:
            return self.seq_len
        lengths = (getattr(criterion, "max_length", None) for criterion in self.stopping_criteria)
        return next((int(length) for length in lengths if length is not None), None)

    def is_end(self, ids: Tensor) -> Tensor:
        """Which ids, of any shape, end a text."""
        return torch.isin(ids, torch.tensor(self.eos_ids, device=ids.device))

    def stops(self, ids: Tensor, window: int) -> bool:
        """Whether captions (rows, T) are not to grow any more.

        Args:
            window: the longest that criteria of the caller's may let them become, if that is more than `seq_len`; a
                search that they never end would not be noticed otherwise.
        """
        if self.stopping_criteria is None:
            return ids.shape[1] >= self.seq_len
        if ids.shape[1] >= max(window, self.seq_len):
            return True
        stopped = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
        for criterion in self.stopping_criteria:
            stopped |= torch.as_tensor(criterion(ids, None), device=ids.device)
        return bool(stopped.all())
