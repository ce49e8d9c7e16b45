"""What does each kind of Lance index find of a large collection, how fast, and how long does it take to build?

    python benchmarks/lance_indexes.py [--vectors 100000] [--kinds IVF_FLAT,IVF_SQ,IVF_PQ,IVF_RQ,IVF_HNSW_SQ]

The vectors are made of the pocket model's embeddings of 500 drawings that it was not trained on: each is a random mix
of two of them and of noise. Partitions per search are chosen as `oneclip index export` does: for a recall@10 of 0.99
with 64 of the vectors and with 64 generic texts. The recall shown is that of 200 other mixes and of 200 other texts,
names of classes of ImageNet. `exact` is Lance's search without an index. Each search is a call of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from contest import given
from contest.arena import machine, ours

QUERIES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--kinds", default="IVF_FLAT,IVF_SQ,IVF_PQ,IVF_RQ,IVF_HNSW_SQ")
    options = parser.parse_args()
    ours()
    import lance
    import pyarrow as pa

    import oneclip
    from oneclip.evaluate import class_names, load_pocket_heldout
    from oneclip.search.handover.lance_dataset import PROBES, update_vector_index
    from oneclip.search.handover.lance_recall import GroundTruth, calibrate_probes
    from oneclip.search.relevance import generic_texts

    clip = oneclip.load("pocket", device="cpu")
    drawings = np.concatenate([clip.encode_images(task.images) for task in load_pocket_heldout().tasks])
    random = np.random.default_rng(0)
    vectors = mixed(drawings, options.vectors, random)
    images = unit(mixed(drawings, QUERIES, random))
    texts = clip.encode_texts(class_names()[:: len(class_names()) // QUERIES][:QUERIES])
    given.say(f"{machine()}, pylance {lance.__version__}")
    given.say(f"{options.vectors:,} vectors of {vectors.shape[1]} numbers")
    given.say()
    given.say(f"{'':12} {'build':>8} {'size':>9} {'partitions':>12} {'recall@10':>16} {'ms per search':>15}")
    given.say(f"{'':12} {'':>8} {'':>9} {'read':>12} {'images':>9} {'texts':>6} {'images':>8} {'texts':>6}")
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "vectors.lance")
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        lance.write_dataset(pa.table({"vector": column}), path)
        dataset = lance.dataset(path)
        own = [GroundTruth(dataset, 64), GroundTruth(dataset, clip.encode_texts(generic_texts()[::3][:64]))]
        others = [GroundTruth(dataset, images), GroundTruth(dataset, texts)]
        show("exact", dataset, others, None, "", "", "")
        for kind in options.kinds.split(","):
            before = size_of(path)
            started = time.perf_counter()
            update_vector_index(lance.dataset(path), kind)
            seconds = time.perf_counter() - started
            size = f"{(size_of(path) - before) / 2**20:.0f} MiB"
            dataset = lance.dataset(path)
            calibrate_probes(dataset, own)
            dataset = lance.dataset(path)
            probes = int(dataset.config()[PROBES])
            show(kind, dataset, others, probes, f"{seconds:.0f} s", size, str(probes))


def mixed(drawings: Any, count: int, random: Any) -> Any:
    """Mix pairs of embeddings with noise: (count, D) float32 of unit length."""
    pairs = drawings[random.integers(len(drawings), size=(2, count))]
    share = random.uniform(0.5, 1, size=(count, 1))
    noise = random.normal(size=pairs[0].shape) * 0.3 / pairs.shape[-1] ** 0.5
    return unit(share * pairs[0] + (1 - share) * pairs[1] + noise)


def unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def size_of(path: str) -> int:
    return sum(
        os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names
    )


def show(name: str, dataset: Any, truths: Any, probes: int | None, build: str, size: str, read: str) -> None:
    """Print the recall of an index and the median time of a search."""
    from oneclip.search.handover.lance_dataset import nearest

    recalls, times = [], []
    for truth in truths:
        recalls.append(truth.recall(dataset, probes) if probes is not None else 1.0)
        took = []
        for query in truth.queries[: QUERIES if probes is not None else 20]:
            started = time.perf_counter()
            nearest(dataset, query, 10, columns=["vector"], probes=probes)
            took.append(1000 * (time.perf_counter() - started))
        times.append(statistics.median(took))
    given.say(
        f"{name:12} {build:>8} {size:>9} {read:>12} {recalls[0]:>9.3f} {recalls[1]:>6.3f} "
        f"{times[0]:>8.1f} {times[1]:>6.1f}"
    )


if __name__ == "__main__":
    main()
