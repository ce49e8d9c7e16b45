"""How many images per second does the data loader read from tar files?

    python benchmarks/loading.py [--images 2000] [--size 384x384] [--rounds 3] [--threads 1 2 4] [--workers 2]

Tar files of 250 JPEGs (quality 90) with captions are written to a temporary folder. Each contender reads all of them
once in batches of 64, decodes, and augments to 224 x 224 with the same code, so only the loading differs. webdataset
shuffles in a buffer of 1,000, as training programs do; its processes are those of torch's DataLoader. Rounds
alternate between contenders; medians. CPU time is that of one process, including the system. `started` is the time
before the first batch: starting processes, and for our loader indexing the tar files.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from contest import given, photographs
from contest.arena import ROOT, machine
from PIL import Image

from oneclip.image import Augment, open_image
from oneclip.train.data import BatchLoader, WebDataset

BATCH, SHARD = 64, 250
AUGMENT = Augment()


def write_tars(folder: Path, count: int, size: tuple[int, int]) -> None:
    for first in range(0, count, SHARD):
        with tarfile.open(folder / f"{first // SHARD:03}.tar", "w") as archive:
            for number, image in enumerate(photographs.crops(min(SHARD, count - first), size), first):
                add(archive, f"{number:06}.jpg", jpeg(image))
                add(archive, f"{number:06}.txt", f"photograph {number}".encode())


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def loader(place: str, threads: int, workers: int) -> Iterator[Any]:
    """Read the batches of one epoch with OneCLIP."""
    source = BatchLoader(WebDataset(place), BATCH, AUGMENT, threads=threads, workers=workers)
    for step in range(source.batches_per_epoch):
        yield source.batch(step)
    source.close()


def webdataset(folder: Path, workers: int) -> Iterator[Any]:
    """Read the batches of one epoch with the published package."""
    import webdataset as wds

    tars = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = (
        wds.WebDataset(tars, shardshuffle=len(tars))
        .shuffle(1000)
        .to_tuple("jpg", "txt")
        .map_tuple(augmented, bytes.decode)
        .batched(BATCH, collation_fn=collated)
    )
    return iter(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers))


def augmented(content: bytes) -> torch.Tensor:
    return AUGMENT(open_image(content))


def collated(pairs: list[tuple[torch.Tensor, str]]) -> tuple[torch.Tensor, list[str]]:
    return torch.stack([image for image, _ in pairs]), [text for _, text in pairs]


def measured(folder: Path, contender: str, threads: int, workers: int) -> dict[str, float]:
    """Return images per second after the first batch, and the seconds before it."""
    torch.set_num_threads(1)
    places = {"loader": f"{folder}/*.tar", "loader, file://": f"file://{folder}/*.tar"}
    start = time.perf_counter()
    if contender == "webdataset":
        batches = webdataset(folder, workers)
    else:
        batches = loader(places[contender], threads, workers)
    next(batches)
    first, before, count = time.perf_counter(), sum(os.times()[:4]), 0
    for batch in batches:
        count += len(batch[0])
    rate, effort = count / (time.perf_counter() - first), 1e3 * (sum(os.times()[:4]) - before) / count
    return {"rate": rate, "effort": effort if not workers else math.nan, "started": first - start}


def run(folder: Path, contender: str, threads: int, workers: int) -> dict[str, float]:
    """Run a measurement in its own process."""
    packages = os.pathsep.join([str(ROOT / "src"), str(ROOT / ".parity" / "packages")])
    environment = {**os.environ, "PYTHONPATH": packages, "ONECLIP_CACHE": str(folder / "cache")}
    what = json.dumps([str(folder), contender, threads, workers])
    command = [sys.executable, __file__, "--one", what]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", default="384x384", help="width x height")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, contender, threads, workers = json.loads(options.one)
        print(json.dumps(measured(Path(folder), contender, threads, workers)))
        return
    contenders = [("loader", threads, 0) for threads in options.threads]
    contenders += [("loader, file://", options.threads[-1], 0), ("loader", 1, options.workers)]
    if (ROOT / ".parity" / "packages" / "webdataset").is_dir():
        contenders += [("webdataset", 1, 0), ("webdataset", 1, options.workers)]
    width, height = map(int, options.size.split("x"))
    results: dict[tuple[str, int, int], list[dict[str, float]]] = {one: [] for one in contenders}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tars(folder, options.images, (width, height))
        for _ in range(options.rounds):
            for one in contenders:
                results[one].append(run(folder, *one))
    given.say(machine())
    given.say()
    given.say(
        f"{'':18} {'processes':>9} {'threads each':>12} {'images/s':>11} {'CPU ms each':>11} {'started, s':>11}"
    )
    for (contender, threads, workers), some in results.items():
        rate, effort, started = (statistics.median(one[key] for one in some) for key in some[0])
        given.say(
            f"{contender:18} {workers or 1:>9} {threads:>12} {rate:>11.0f} {effort:>11.2f} {started:>11.1f}"
        )


if __name__ == "__main__":
    main()
