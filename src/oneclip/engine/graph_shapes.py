"""Input shapes that have a CUDA graph: batches are padded up to one of a few numbers of rows and tokens.

Every kernel launch costs the processor some microseconds. With small batches the GPU waits for the next launch: a
graph, which launches all kernels at once, is faster then, and padding rows cost nothing. Large batches keep the GPU
busy: padding rows would cost time, so these batches are computed without a graph.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_TOKENS = 8192  # of a batch; above this, kernels run longer than their launch
ROW_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
LENGTH_BUCKETS = (16, 32, 48, 64)

Shape = tuple[int, ...]


def padded_rows(rows: int, tokens: int) -> int | None:
    """Return the number of rows to pad a batch of `tokens` each to; None if the batch gets no graph."""
    bucket = next((bucket for bucket in ROW_BUCKETS if bucket >= rows), None)
    return bucket if bucket is not None and bucket * tokens <= MAX_TOKENS else None


@dataclass(frozen=True)
class ImageShapes:
    """Shapes (B, 3, H, W) that have a graph.

    Attributes:
        tokens: number of tokens of one image.
    """

    tokens: int

    def bucket(self, shape: Shape) -> Shape | None:
        """Return the shape to pad a batch to; None if the batch gets no graph."""
        rows = padded_rows(shape[0], self.tokens)
        return None if rows is None else (rows, *shape[1:])


@dataclass(frozen=True)
class TextShapes:
    """Shapes (B, L) that have a graph.

    Attributes:
        context: greatest number of tokens of a text.
        pad: the id to pad shorter texts with, see `TextPlan.pad`; if None, only rows of full length have a graph.
    """

    context: int
    pad: int | None

    def bucket(self, shape: Shape) -> Shape | None:
        """Return the shape to pad a batch to; None if the batch gets no graph."""
        rows, length = shape
        if self.pad is None:
            padded_length = self.context if length == self.context else None
        else:
            lengths = (*(bucket for bucket in LENGTH_BUCKETS if bucket < self.context), self.context)
            padded_length = next((bucket for bucket in lengths if bucket >= length), None)
        if padded_length is None:
            return None
        count = padded_rows(rows, padded_length)
        return None if count is None else (count, padded_length)


GraphShapes = ImageShapes | TextShapes
