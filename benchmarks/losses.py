"""How much memory and time do tiled losses need, compared with plain losses?

    python benchmarks/losses.py [--batch 16384] [--width 512] [--tile 2048] [--rounds 3] [--large 32768]

Forward and backward pass of the softmax and the sigmoid loss in fp32 on the CPU, each form in its own process, in turn.
Memory is the peak resident set of the process. "in all" includes Python, torch, the features and their gradients;
"above" subtracts what the process held before its first loss, so it includes the gradients but not the features. The
batch of `--large` is for the tiled form only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from contest import given
from contest.arena import Results, contest, machine, ours, serve

MEGA = 10**6
LOSSES = ("softmax", "sigmoid")


class Seen(NamedTuple):
    """Result of one forward and backward pass."""

    loss: float
    gradients: tuple[torch.Tensor, ...]  # of some rows of the features, the scale and the bias
    before: int  # resident bytes before the loss, with only the features
    peak: int


def of_form(loss: str, is_tiled: bool, is_large: bool, folder: Path) -> dict[str, Callable[[], Any]]:
    """Run one loss in one form, on random features."""
    ours()
    from oneclip.losses import ClipLoss, SigLipLoss

    options = json.loads((folder / "options.json").read_text(encoding="utf-8"))
    batch = options["large" if is_large else "batch"]
    generator = torch.Generator().manual_seed(given.SEED)
    features = [torch.empty(batch, options["width"]) for _ in range(2)]
    for part in features:
        for rows in part.split(1024):  # to avoid a second copy of all rows
            rows.copy_(torch.nn.functional.normalize(rows.normal_(generator=generator), dim=-1))
    kind = {"softmax": ClipLoss, "sigmoid": SigLipLoss}[loss]
    form = kind(tile_size=options["tile"] if is_tiled else None)
    return {"forward and backward": partial(_once, form, features, _status("VmRSS"))}


def _once(loss: Any, features: list[torch.Tensor], before: int) -> Seen:
    leaves = [*features, torch.tensor(14.0), torch.tensor(-10.0)]
    for leaf in leaves:
        leaf.grad = None
        leaf.requires_grad_()
    _forget_peak()
    value = loss(*leaves)
    value.backward()
    few = (leaf.grad[:: 1 + len(leaf.grad) // 64].clone() for leaf in leaves[:2])
    gradients = (*few, *(leaf.grad.clone() for leaf in leaves[2:]))
    return Seen(value.item(), gradients, before, _status("VmHWM"))


def _status(name: str) -> int:
    """Return the resident bytes of this process, now (VmRSS) or at the peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


FORMS = {
    f"{loss}, {form}": partial(of_form, loss, form == "in tiles", False)
    for loss in LOSSES
    for form in ("all at once", "in tiles")
}
LARGE = {f"{loss}, in tiles, large": partial(of_form, loss, True, True) for loss in LOSSES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16384)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--tile", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=32768)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        (Path(folder) / "options.json").write_text(json.dumps(vars(options)), encoding="utf-8")
        results = contest(FORMS, Path(folder), options.rounds)
        large = contest(LARGE, Path(folder), 1, warm_up=False)
    given.say(machine())
    given.say()
    given.say(f"batch {options.batch}, width {options.width}, tiles of {options.tile}")
    _say_forms(results)
    given.say()
    given.say(f"batch {options.large}, tiled only")
    for name in LARGE:
        _say_line(name.removesuffix(", large"), large, name)


def _say_forms(results: Results) -> None:
    given.say(f"{'':24} {'seconds':>8} {'MB above':>9} {'MB in all':>10}")
    for name in FORMS:
        _say_line(name, results, name)
    for loss in LOSSES:
        plain, tiled = ((f"{loss}, {form}", "forward and backward") for form in ("all at once", "in tiles"))
        theirs, mine = results.outputs[plain], results.outputs[tiled]
        above = (theirs.peak - theirs.before) / (mine.peak - mine.before)
        pairs = zip(
            (torch.tensor(mine.loss), *mine.gradients),
            (torch.tensor(theirs.loss), *theirs.gradients),
            strict=True,
        )
        errors = [float((a - b).norm() / b.norm()) for a, b in pairs if float(b.norm()) > 1e-6]
        given.say(
            f"{loss}: {results.ratio(tiled, plain):.2f} times as fast in tiles, 1/{above:.1f} of the memory above, "
            f"1/{theirs.peak / mine.peak:.1f} in all, greatest relative difference {max(errors):.1e}"
        )


def _say_line(name: str, results: Results, entrant: str) -> None:
    seen = results.outputs[entrant, "forward and backward"]
    seconds = results.median(entrant, "forward and backward")
    above, in_all = (seen.peak - seen.before) / MEGA, seen.peak / MEGA
    given.say(f"{name:24} {seconds:>8.2f} {above:>9.0f} {in_all:>10.0f}")


if __name__ == "__main__":
    serve({**FORMS, **LARGE})
    main()
