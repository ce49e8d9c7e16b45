"""How fast is `decode="fast"` compared with the published preprocessing, and how much do the embeddings change?

    python benchmarks/decode.py [FOLDER ...] [--model pocket] [--megapixels 12] [--rounds 5]

Each image is decoded and preprocessed both ways in turn, on one thread; the best round counts. Then both tensors are
encoded by the model. With --megapixels, images are first enlarged to that size and written as JPEG (quality 90), like
those of a camera. Without a FOLDER, the images are two dozen crops of photographs. The drift is 1 - cosine of the two
embeddings.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from contest import photographs
from PIL import Image

import oneclip
from oneclip.embed.sources.files import find_in_path
from oneclip.image import FastPreprocess, open_image


def enlarged(content: bytes, megapixels: float) -> bytes:
    """Encode the image as a JPEG with this many megapixels."""
    image = open_image(content).convert("RGB")
    scale = math.sqrt(megapixels * 1e6 / (image.width * image.height))
    file = io.BytesIO()
    size = round(image.width * scale), round(image.height * scale)
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def images(folders: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the files in folders, or of crops."""
    for path in (path for folder in folders for path in find_in_path(folder)[0]):
        yield Path(path).name, Path(path).read_bytes()
    if not folders:
        with TemporaryDirectory() as temporary:
            photographs.write_jpegs(Path(temporary), 24, (640, 480))
            yield from images([temporary])


def timed(run: Callable[[bytes], torch.Tensor], content: bytes) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    tensor = run(content)
    return time.perf_counter() - start, tensor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--megapixels", type=float)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    clip = oneclip.load(options.model)
    fast = FastPreprocess(clip.preprocess.cfg)
    ways = (
        lambda content: clip.preprocess(open_image(content)),
        lambda content: fast(open_image(content, min_size=fast.min_size)),
    )
    ratios, drifts = [], []
    for name, content in images(options.folders):
        if options.megapixels:
            content = enlarged(content, options.megapixels)
        rounds = [[timed(way, content) for way in ways] for _ in range(options.rounds)]
        exact, quick = (min(round[i][0] for round in rounds) for i in (0, 1))
        pixels = torch.stack([tensor for _, tensor in rounds[0]])
        vectors = torch.nn.functional.normalize(clip.encode_pixels(pixels).double(), dim=-1)
        drift = 1 - float(vectors[0] @ vectors[1])
        ratios.append(exact / quick)
        drifts.append(drift)
        print(
            f"{name:28} {1e3 * exact:7.2f} ms exact {1e3 * quick:7.2f} ms fast "
            f"{exact / quick:5.2f} times, drift {drift:.1e}"
        )
    print(
        f"{len(drifts)} images with {clip.name} at {clip.image_size}: median {statistics.median(ratios):.2f} times, "
        f"drift median {np.median(drifts):.1e}, worst {max(drifts):.1e}"
    )


if __name__ == "__main__":
    main()
