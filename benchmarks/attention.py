"""How fast is self-attention without torch's copy of queries, keys and values, compared with the module itself?

    python benchmarks/attention.py [--rounds 9]

Both run on the same input in turn, on one thread. `oneclip.model.attention.self_attention` includes its check for hooks
and patches. The numbers are medians of the ratios of the rounds; below 1 is faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from oneclip.model.attention import is_replaceable, self_attention

SIZES = {  # batch, tokens, width, heads, causal
    "a text of 13 tokens": (1, 13, 512, 8, True),
    "16 texts of 13 tokens": (16, 13, 512, 8, True),
    "8 images of 50 tokens": (8, 50, 768, 12, False),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"{'':24} {'layout':8} inference  training")
    for name, (batch, tokens, width, heads, causal) in SIZES.items():
        for batch_first in (True, False):
            module = nn.MultiheadAttention(width, heads, batch_first=batch_first)
            shape = (batch, tokens, width) if batch_first else (tokens, batch, width)
            mask = torch.full((tokens, tokens), float("-inf")).triu(1) if causal else None
            found = [ratio(module, torch.randn(shape), mask, trains, rounds) for trains in (False, True)]
            print(f"{name:24} {'(B, L, C)' if batch_first else '(L, B, C)'} {found[0]:8.2f} {found[1]:9.2f}")


def ratio(module: nn.MultiheadAttention, x: Tensor, mask: Tensor | None, trains: bool, rounds: int) -> float:
    """Return our time divided by that of the module, the median over rounds."""
    module.train(trains)
    x = x.requires_grad_(trains)

    def plain() -> Tensor:
        out: Tensor = module(x, x, x, need_weights=False, attn_mask=mask)[0]
        return out

    def ours() -> Tensor:
        assert is_replaceable(module)
        return self_attention(module, x, mask)

    with torch.set_grad_enabled(trains):
        torch.testing.assert_close(ours(), plain(), rtol=1e-4, atol=1e-5)
        pairs = [(seconds(ours, trains), seconds(plain, trains)) for _ in range(rounds)]
    return statistics.median(one / other for one, other in pairs)


def seconds(compute: Callable[[], Tensor], trains: bool, times: int = 20) -> float:
    """Return the processor time of repeated computations, with gradients in training."""
    start = time.process_time()
    for _ in range(times):
        out = compute()
        if trains:
            out.sum().backward()
    return time.process_time() - start


if __name__ == "__main__":
    main()
