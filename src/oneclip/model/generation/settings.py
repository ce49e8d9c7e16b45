"""Settings of a caption search, checked before the search starts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oneclip.errors import ConfigError

GENERATION_TYPES = ("beam_search", "top_p", "top_k")


@dataclass(frozen=True)
class GenerationCfg:
    """Arguments of `CoCa.generate`, which explains them.

    Raises:
        ConfigError: if they contradict each other; arguments that the kind of search does not use are not checked.
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
        if kind not in GENERATION_TYPES:
            raise ConfigError(f"generation_type is {kind!r}; expected one of {', '.join(GENERATION_TYPES)}")
        if self.seq_len <= self.min_seq_len:
            raise ConfigError(
                f"seq_len must be more than min_seq_len; found {self.seq_len} and {self.min_seq_len}"
            )
        if self.max_seq_len < 1:
            raise ConfigError(f"max_seq_len is {self.max_seq_len}; expected 1 or more")
        if not self.eos_ids:
            raise ConfigError("eos_token_id is empty; expected one or more ids that end a caption")
        if not self.repetition_penalty > 0:
            raise ConfigError(f"repetition_penalty is {self.repetition_penalty}; expected more than 0")
        if kind == "beam_search":
            beams, groups = self.num_beams, self.num_beam_groups
            if beams < 1 or groups < 1 or beams % groups:
                raise ConfigError(
                    f"{beams} beams cannot be split into {groups} groups of equal size: choose num_beams as a multiple "
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
        """The most tokens of a caption, the end of text included; None if it is not known in advance."""
        if self.stopping_criteria is None:
            return self.seq_len
        lengths = (getattr(criterion, "max_length", None) for criterion in self.stopping_criteria)
        return next((int(length) for length in lengths if length is not None), None)

    def is_end(self, ids: Tensor) -> Tensor:
        """Return True for each id, of any shape, that ends a caption."""
        return torch.isin(ids, torch.tensor(self.eos_ids, device=ids.device))

    def stops(self, ids: Tensor, window: int) -> bool:
        """Return True if the captions (rows, T) must not grow.

        Args:
            window: a limit for stopping criteria of the caller, if it is more than `seq_len`: without it, criteria
                that never stop would search forever.
        """
        if self.stopping_criteria is None:
            return ids.shape[1] >= self.seq_len
        if ids.shape[1] >= max(window, self.seq_len):
            return True
        stopped = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
        for criterion in self.stopping_criteria:
            stopped |= torch.as_tensor(criterion(ids, None), device=ids.device)
        return bool(stopped.all())
