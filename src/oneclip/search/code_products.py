"""Products with the int8 codes of segments, in threads: in torch if it is loaded, else in NumPy.

Only a model in torch loads it. To import it takes longer than to search a million vectors without it.

Shapes: Q queries, N rows of a segment, M some of them.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from oneclip.hardware import available_processors
from oneclip.search.segments import ROWS_AT_ONCE, product

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Codes: TypeAlias = NDArray[np.int8] | Tensor  # (N, BLOCK), in the memory of their file
T = TypeVar("T")


def view_codes(codes: NDArray[np.int8]) -> Sequence[Codes]:
    """Return the blocks of a segment (B, N, BLOCK), as `add_products` takes them; no codes are copied."""
    if not _is_torch_loaded():
        return list(codes)
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # nothing writes to them
        return [torch.from_numpy(block) for block in codes]


def add_products(
    codes: Codes,
    rows: slice | NDArray[np.int64],
    queries: NDArray[np.float32],
    base: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write `base` and the products of queries with some rows to `out`.

    Args:
        codes: one block of a segment, from `view_codes`.
        rows: M of its rows.
        queries: (Q, BLOCK) of the scaled queries; torch rounds them to bf16.
        base: (Q, M) or (Q, 1); it may be `out`.
        out: (Q, M).
    """
    if isinstance(codes, np.ndarray):
        some = codes[rows]
        base = np.broadcast_to(base, out.shape)
        for start in range(0, len(some), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            out[:, part] = base[:, part] + product(queries, some[part].astype(np.float32).T)
        return
    import torch

    from oneclip.engine.kernels import int8_products

    picked = codes[rows] if isinstance(rows, slice) else codes.index_select(0, torch.from_numpy(rows))
    products = int8_products(picked, torch.from_numpy(queries))
    torch.add(torch.from_numpy(base), products, out=torch.from_numpy(out))


def run_in_threads(work: Callable[[T], None], jobs: Sequence[T]) -> None:
    """Do every job, in one thread for each processor."""
    if _is_torch_loaded():
        from oneclip.engine.thread_groups import run_in_groups

        run_in_groups(work, jobs)
        return
    threads = min(len(jobs), available_processors())
    if threads <= 1:
        for job in jobs:
            work(job)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, jobs))


def _is_torch_loaded() -> bool:
    return sys.modules.get("torch") is not None
