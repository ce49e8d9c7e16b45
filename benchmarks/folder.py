"""How fast is a folder of images embedded, from files to embeddings on disk?

    python benchmarks/folder.py [--images 2000] [--size 640x480] [--decode exact] [--rounds 2]

`oneclip embed`, with its hashes, parts and table of errors, against the usual script for open_clip_torch: a
DataLoader and a loop, with features saved as one .npz. Models are loaded before the clock starts. The script runs
with its best settings: before the rounds it tries numbers of reading processes and computing threads, three times on
a part of the images, and uses the fastest for each precision. Ours runs with its defaults. With --decode fast, ours
shrinks large JPEGs while reading them; the script uses what its package offers. The images are made as in
distance.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from contest import given, photographs
from contest.arena import contest, machine, ours, published, serve

BATCH = 32
WAYS = ((0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 2))  # reading processes, computing threads


def of_ours(folder: Path) -> dict[str, Callable[[], Any]]:
    """Run what the command does after loading the model."""
    ours()
    import oneclip
    from oneclip.embed.rows import EmbeddingMetadata
    from oneclip.embed.run import embed
    from oneclip.embed.sources import find_sources
    from oneclip.embed.store import EmbeddingStore

    decode: Any = (folder / "decode.txt").read_text(encoding="utf-8")

    def run(clip: Any, output: Path) -> Any:
        output.unlink(missing_ok=True)
        with EmbeddingStore(output, EmbeddingMetadata.for_encoder(clip, decode)) as store:
            embed(clip, find_sources([str(folder / "images")]), store, decode=decode)
        return np.load(output)["vectors"][:64]

    tasks: dict[str, Callable[[], Any]] = {}
    for precision in ("fp32", "bf16", "int8"):
        clip = oneclip.load(folder / "model", device="cpu", precision=precision)
        tasks[precision] = lambda clip=clip, out=folder / f"ours-{precision}.npz": run(clip, out)
    return tasks


def of_open_clip(folder: Path) -> dict[str, Callable[[], Any]]:
    """Run the usual script with its best settings."""
    published()
    from PIL import Image

    import open_clip

    class Images(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self, paths: list[Path], preprocess: Any) -> None:
            self.paths, self.preprocess = paths, preprocess

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            return self.preprocess(Image.open(self.paths[index]))

    paths = sorted((folder / "images").glob("*.jpg"))

    def run(model: Any, preprocess: Any, output: Path, count: int, way: tuple[int, int]) -> Any:
        workers, threads = way
        torch.set_num_threads(threads)
        dtype = next(model.parameters()).dtype
        loader = torch.utils.data.DataLoader(Images(paths[:count], preprocess), BATCH, num_workers=workers)
        with torch.inference_mode():
            parts = [model.encode_image(x.to(dtype), normalize=True).float().numpy() for x in loader]
        vectors = np.concatenate(parts)
        np.savez(output, vectors=vectors, names=np.array([str(path) for path in paths[:count]]))
        return vectors[:64]

    tasks: dict[str, Callable[[], Any]] = {}
    for precision in ("fp32", "pure_bf16"):
        model, _, preprocess = open_clip.create_model_and_transforms(
            f"local-dir:{folder / 'model'}", precision=precision
        )
        model.eval()
        arguments = model, preprocess, folder / f"theirs-{precision}.npz"
        run(*arguments, BATCH, WAYS[0])
        trial = max(len(paths) // 20, 2 * BATCH)
        rounds = [{way: _seconds(run, *arguments, trial, way) for way in WAYS} for _ in range(3)]
        taken = {way: min(taken[way] for taken in rounds) for way in WAYS}
        best = min(taken, key=taken.__getitem__)
        (folder / f"best-{precision}.txt").write_text(
            f"{best[0]} readers, {best[1]} threads", encoding="utf-8"
        )
        tasks[precision] = lambda arguments=arguments, best=best: run(*arguments, len(paths), best)
    return tasks


def _seconds(run: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


ENTRANTS = {"oneclip embed": of_ours, "open_clip_torch": of_open_clip}


def main() -> None:
    serve(ENTRANTS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--decode", choices=("exact", "fast"), default="exact")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", metavar="TEXT", help="precisions with this in their name")
    options = parser.parse_args()
    ours()
    width, height = map(int, options.size.split("x"))
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given.write_model(folder, options.architecture)
        (folder / "decode.txt").write_text(options.decode, encoding="utf-8")
        (folder / "images").mkdir()
        photographs.write_jpegs(folder / "images", options.images, (width, height))
        size = sum(path.stat().st_size for path in (folder / "images").iterdir())
        results = contest(ENTRANTS, folder, options.rounds, lambda task: options.only in task, warm_up=False)
        chosen = {p: (folder / f"best-{p}.txt").read_text(encoding="utf-8") for p in ("fp32", "pure_bf16")}
        free = shutil.disk_usage(folder).free
    given.say(
        f"{options.architecture}, {options.images} JPEGs of {options.size}, {size / 1e6:.0f} MB; "
        f"decode {options.decode}; {options.rounds} rounds; {os.cpu_count()} processors, {free / 1e9:.0f} GB free"
    )
    given.say(machine())
    given.say(f"best settings of the script: {'; '.join(f'{p}: {words}' for p, words in chosen.items())}")
    given.say()
    given.say(f"{'':30} {'images a second':>18} {'x fp32':>7} {'x pure_bf16':>12}")
    for way in results.seconds:
        ratios = [results.ratio(way, ("open_clip_torch", p)) if not options.only else 0.0 for p in chosen]
        speed = options.images / results.median(*way)
        given.say(f"{', '.join(way):30} {speed:>18.1f} {ratios[0]:>7.2f} {ratios[1]:>12.2f}")


if __name__ == "__main__":
    main()
