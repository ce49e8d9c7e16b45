"""A batch's shape to the few shapes that are recorded on a GPU: rows, and the lengths of captions, are filled up.

A GPU is told of each of a plan's few hundred steps by the processor, a few microseconds each. While a step takes less
than that, the GPU waits: a recording tells it of all steps at once, and the rows that fill a batch up cost nothing, for
the GPU was not full. With more to do in each step nothing waits, rows that nobody asked for would cost their share of
the time, and batches are computed as they are.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

TOKENS = 8192  # of a whole batch, beyond which steps take longer than to tell of them
ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
LENGTHS = (16, 32, 48, 64)

Shape = tuple[int, ...]


def filled_up(rows: int, tokens: int) -> int | None:
    """To how many rows of so many tokens a batch is filled up; None where it is computed as it is."""
    enough = next((bucket for bucket in ROWS if bucket >= rows), None)
    return enough if enough is not None and enough * tokens <= TOKENS else None


@dataclass(frozen=True)
class Pictures:
    """Shapes (B, 3, H, W) that are recorded.

    Attributes:
        tokens: that a picture becomes.
    """

    tokens: int

    def bucket(self, shape: Shape) -> Shape | None:
        """The shape in whose recording a batch is computed; None where it is computed as it is."""
        rows = filled_up(shape[0], self.tokens)
        return None if rows is None else (rows, *shape[1:])


@dataclass(frozen=True)
class Captions:
    """Shapes (B, L) that are recorded.

    Attributes:
        context: the most tokens that a caption has.
        pad: the id that shorter captions may be filled up with, see `TextPlan.pad`; where there is none, only whole
            rows are recorded.
    """

    context: int
    pad: int | None

    def bucket(self, shape: Shape) -> Shape | None:
        """The shape in whose recording a batch is computed; None where it is computed as it is."""
        rows, length = shape
        if self.pad is None:
            enough = self.context if length == self.context else None
        else:
            lengths = (*(bucket for bucket in LENGTHS if bucket < self.context), self.context)
            enough = next((bucket for bucket in lengths if bucket >= length), None)
        if enough is None:
            return None
        filled = filled_up(rows, enough)
        return None if filled is None else (filled, enough)


Buckets = Pictures | Captions
