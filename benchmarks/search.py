"""How long does a search of 100,000 embeddings take, compared with NumPy, rclip and vector databases at equal recall?

    python benchmarks/search.py [--rows 100000] [--dim 512] [--queries 20] [--rounds 5] [--vectors FILE.npz]

Each contender searches the same vectors for the 10 best rows of each query, one query after the other, with queries of
two kinds: images (near others, like shots of one scene) and texts (far from all images). Approximate indexes get the
first setting of a list that finds 0.999 of the 10 best rows, or the last one. Memory is what a process holds for itself
beyond what it held before it opened its index; files that it maps do not count, because the system may drop them. rclip
runs `RClip.search` on its own database, with a model whose query features are given.

The vectors are drawn. Images have a mean, a variance that falls with the inverse of the rank of a dimension, heavy
tails,
and bursts. Texts have another mean, and in each dimension the variance of images to the power of 0.4, as measured with
pocket. A real collection is used with `--vectors`: arrays `images` (N, D), `image_queries` and `text_queries`
(Q, D), of unit length.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from contest.arena import ROOT, contest, ours, processor, serve

K = 10
KINDS = ("image", "text")
ENOUGH = 0.999
RCLIP = ROOT / ".parity" / "rclip"
RCLIP_VERSION = "rclip==3.3.0"

Search = Callable[[np.ndarray], Any]  # from a query (D,) to its K best rows
Chosen = dict[str, tuple[str, Search]]  # for each kind of query a setting and its search


def of_oneclip(folder: Path) -> dict[str, Callable[[], Any]]:
    """Search memory-mapped segments with `VectorScan`."""
    ours()
    import torch

    from oneclip.search.scan import VectorScan
    from oneclip.search.segments import Segment

    torch.ones(1)
    before = held()
    scan = VectorScan([Segment.open(path) for path in sorted((folder / "segments").iterdir())])
    order = np.load(folder / "order.npy")
    return tasks(folder, before, always(lambda query: order[scan.top(query[None], K).rows]))


def of_numpy(folder: Path) -> dict[str, Callable[[], Any]]:
    """Multiply an fp32 matrix by the query."""
    before = held()
    vectors = np.load(folder / "images.npy")

    def search(query: np.ndarray) -> np.ndarray:
        scores = vectors @ query
        best = np.argpartition(scores, -K)[-K:]
        return best[np.argsort(-scores[best])]

    return tasks(folder, before, always(search))


def of_rclip(folder: Path) -> dict[str, Callable[[], Any]]:
    """Search the database of rclip with its own functions."""
    sys.path.insert(0, str(RCLIP))
    from rclip.db import DB
    from rclip.main import RClip
    from rclip.model import Model

    class GivenFeatures(Model):
        """Model whose query features are given."""

        query = np.zeros(0, np.float32)

        def compute_features_for_queries(self, queries: list[str]) -> np.ndarray:
            return self.query if queries else np.zeros_like(self.query)

    before = held()
    model = GivenFeatures()
    rclip = RClip(model, DB(folder / "rclip.sqlite3"), indexing_batch_size=8, exclude_dirs=None)

    def search(query: np.ndarray) -> list[int]:
        model.query = query
        return [int(Path(hit.filepath).stem) for hit in rclip.search("given", "/images", K)]

    return tasks(folder, before, always(search))


def of_faiss_flat(folder: Path) -> dict[str, Callable[[], Any]]:
    """Search exactly with faiss."""
    import faiss

    before = held()
    vectors = np.load(folder / "images.npy")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    del vectors
    return tasks(folder, before, always(lambda query: index.search(query[None], K)[1][0]))


def of_faiss_hnsw(folder: Path) -> dict[str, Callable[[], Any]]:
    """Search a graph with faiss: 32 links, 200 candidates at construction."""
    import faiss

    before = held()
    vectors = np.load(folder / "images.npy")
    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    index.add(vectors)
    del vectors

    def searches() -> Iterable[tuple[str, Search]]:
        for breadth in (64, 128, 256, 512, 1024, 2048, 4096):

            def search(query: np.ndarray, breadth: int = breadth) -> Any:
                index.hnsw.efSearch = breadth
                return index.search(query[None], K)[1][0]

            yield f"ef {breadth}", search

    return tasks(folder, before, at_equal_recall(folder, searches()))


def of_usearch(folder: Path) -> dict[str, Callable[[], Any]]:
    """Search a graph with usearch: 32 links, 200 candidates at construction."""
    from usearch.index import Index

    before = held()
    vectors = np.load(folder / "images.npy")
    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=32, expansion_add=200)
    index.add(np.arange(len(vectors)), vectors)
    del vectors

    def searches() -> Iterable[tuple[str, Search]]:
        for breadth in (64, 128, 256, 512, 1024, 2048, 4096):

            def search(query: np.ndarray, breadth: int = breadth) -> Any:
                index.expansion_search = breadth
                return index.search(query, K).keys

            yield f"ef {breadth}", search

    return tasks(folder, before, at_equal_recall(folder, searches()))


def of_lance(folder: Path) -> dict[str, Callable[[], Any]]:
    """Search a Lance dataset on disk with an IVF_PQ index, whose candidates are compared exactly."""
    import lance

    before = held()
    dataset = lance.dataset(str(folder / "images.lance"))
    lists = lists_of(dataset.count_rows())

    def searches() -> Iterable[tuple[str, Search]]:
        for share, refine in ((32, 5), (16, 10), (8, 20), (4, 40), (2, 80), (1, 160)):
            probes = max(1, lists // share)
            nearest = {"column": "vector", "k": K, "nprobes": probes, "refine_factor": refine}

            def search(query: np.ndarray, nearest: dict[str, Any] = nearest) -> Any:
                found = dataset.to_table(columns=["row", "_distance"], nearest={**nearest, "q": query})
                return found["row"].to_numpy()

            yield f"{probes} of {lists} lists, refine {refine}", search

    return tasks(folder, before, at_equal_recall(folder, searches()))


ENTRANTS = {
    "oneclip": of_oneclip,
    "NumPy fp32": of_numpy,
    "rclip": of_rclip,
    "faiss flat": of_faiss_flat,
    "faiss HNSW": of_faiss_hnsw,
    "usearch HNSW": of_usearch,
    "Lance IVF_PQ": of_lance,
}


def tasks(folder: Path, before: float, chosen: Chosen) -> dict[str, Callable[[], Any]]:
    """Return a task for each kind of query: it returns the found rows (Q, K), the held MB, and the setting.

    Args:
        folder: with the queries.
        before: MB that the process held before it opened its index.
        chosen: for each kind.
    """
    queries = {kind: np.load(folder / f"{kind}_queries.npy") for kind in KINDS}

    def run(kind: str) -> tuple[np.ndarray, float, str]:
        setting, search = chosen[kind]
        found = np.full((len(queries[kind]), K), -1)
        for row, query in zip(found, queries[kind], strict=True):
            best = search(query)
            row[: len(best)] = best
        return found, held() - before, setting

    return {kind: partial(run, kind) for kind in KINDS}


def always(search: Search) -> Chosen:
    return dict.fromkeys(KINDS, ("", search))


def at_equal_recall(folder: Path, searches: Iterable[tuple[str, Search]]) -> Chosen:
    """Choose for each kind of query the first search that finds enough, on queries that are not timed."""
    chosen: Chosen = {}
    given = list(searches)
    for kind in KINDS:
        queries, truth = np.load(folder / f"{kind}_tuning.npy"), np.load(folder / f"{kind}_tuning_truth.npy")
        enough = (s for s in given if recall([s[1](query) for query in queries], truth) >= ENOUGH)
        chosen[kind] = next(enough, given[-1])
    return chosen


def recall(found: Iterable[Any], truth: np.ndarray) -> float:
    """Return the share of the true best rows (Q, K) that were found."""
    return sum(len(set(a) & set(b)) for a, b in zip(found, truth.tolist(), strict=True)) / truth.size


def held() -> float:
    """Return the memory of this process that is not mapped from files, in MB; NaN where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("nan")
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024 / 1e6


def draw(rows: int, dim: int, queries: int) -> dict[str, np.ndarray]:
    """Draw images, and queries of both kinds, like the embeddings of a CLIP."""
    random = np.random.default_rng(0)
    deviations = np.arange(1, dim + 1) ** -0.5
    deviations /= np.linalg.norm(deviations)
    basis = np.linalg.qr(random.standard_normal((dim, dim)))[0].astype(np.float32)
    of_images, of_texts = unit(random.standard_normal((2, dim)))

    def cloud(count: int) -> np.ndarray:
        tails = np.sqrt(
            6
            / random.chisquare(
                8,
                (count, dim),
            )
        )
        return ((random.standard_normal((count, dim)) * tails * deviations) @ basis).astype(np.float32)

    images = np.concatenate([cloud(min(10_000, rows - start)) for start in range(0, rows, 10_000)])
    bursts = images[1::10]
    bursts[:] = images[::10][: len(bursts)] + 0.15 * cloud(len(bursts))
    scenes = images[:: max(1, rows // queries)][:queries] + 0.3 * cloud(queries)
    of_words = deviations**0.4 / np.linalg.norm(deviations**0.4)
    words = (random.standard_normal((queries, dim)) * of_words) @ basis
    return {
        "images": unit(0.75 * images + 0.65 * of_images),
        "image_queries": unit(0.75 * scenes + 0.65 * of_images),
        "text_queries": unit(0.72 * words + 0.25 * of_images + 0.6 * of_texts),
    }


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def exact(images: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the K best rows (Q, K) in float64."""
    best = []
    for query in queries:
        scores = images @ query
        near = np.argpartition(scores, -5 * K)[-5 * K :]
        scores = images[near].astype(np.float64) @ query.astype(np.float64)
        best.append(near[np.argsort(-scores)[:K]])
    return np.array(best)


def write_inputs(folder: Path, vectors: dict[str, np.ndarray], count: int) -> None:
    """Write what all contenders read: the first `count` queries of each kind to time, the others to tune with."""
    images = vectors["images"]
    np.save(folder / "images.npy", images)
    for kind in KINDS:
        queries = vectors[f"{kind}_queries"]
        for name, part in (("queries", queries[:count]), ("tuning", queries[count:])):
            np.save(folder / f"{kind}_{name}.npy", part)
            np.save(folder / f"{kind}_{name}_truth.npy", exact(images, part))
    _write_segments(folder, images)
    _write_rclip(folder / "rclip.sqlite3", images)
    _write_lance(folder / "images.lance", images)


def _write_segments(folder: Path, images: np.ndarray) -> None:
    ours()
    from oneclip.search.segments import MAX_ROWS, write_segment

    (folder / "segments").mkdir()
    starts = {}
    for start in range(0, len(images), MAX_ROWS):
        part = images[start : start + MAX_ROWS]
        starts[write_segment(folder / "segments", part)] = np.arange(start, start + len(part))
    np.save(folder / "order.npy", np.concatenate([starts[name] for name in sorted(starts)]))


def _write_rclip(path: Path, images: np.ndarray) -> None:
    if not (RCLIP / "rclip").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(RCLIP)]
        subprocess.run([*pip, RCLIP_VERSION], check=True, stdout=sys.stderr)
    sys.path.insert(0, str(RCLIP))
    from rclip.db import DB, NewImage

    database = DB(path)
    for row, vector in enumerate(images):
        image = NewImage(
            filepath=f"/images/{row}.jpg", modified_at=0.0, size=1, vector=vector.tobytes(), hash=str(row)
        )
        database.upsert_image(image, commit=False)
    database.close()


def _write_lance(path: Path, images: np.ndarray) -> None:
    import lance
    import pyarrow as pa

    column = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), images.shape[1])
    dataset = lance.write_dataset(pa.table({"row": np.arange(len(images)), "vector": column}), str(path))
    lists, parts = lists_of(len(images)), images.shape[1] // 8
    dataset.create_index("vector", "IVF_PQ", metric="cosine", num_partitions=lists, num_sub_vectors=parts)


def lists_of(rows: int) -> int:
    """Return the number of lists of an IVF index."""
    return max(1, round(rows**0.5))


def main() -> None:
    serve(ENTRANTS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=20, help="that are timed, of each kind")
    parser.add_argument(
        "--tuning", type=int, default=100, help="queries to choose settings and measure recall"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vectors", type=Path)
    options = parser.parse_args()
    count = options.queries
    if options.vectors:
        vectors = dict(np.load(options.vectors))
    else:
        vectors = draw(options.rows, options.dim, count + options.tuning)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_inputs(folder, vectors, count)
        shape = vectors["images"].shape
        del vectors
        results = contest(ENTRANTS, folder, options.rounds)
        truth = {kind: np.load(folder / f"{kind}_queries_truth.npy") for kind in KINDS}
    say(f"{shape[0]:,} x {shape[1]}, {count} queries of each kind, top {K}; {options.rounds} rounds")
    say(machine())
    for kind in KINDS:
        say()
        say(
            f"{kind + ' queries':14} {'ms':>8} {'of NumPy':>9} {'of rclip':>9} {'recall@10':>10} "
            f"{'MB held':>8}  setting"
        )
        for name in ENTRANTS:
            found, memory, setting = results.outputs[name, kind]
            shares = [results.ratio((base, kind), (name, kind)) for base in ("NumPy fp32", "rclip")]
            say(
                f"{name:14} {results.median(name, kind) / count * 1000:>8.1f} {shares[0]:>9.3f} {shares[1]:>9.4f} "
                f"{recall(found.tolist(), truth[kind]):>10.4f} {memory:>8.0f}  {setting}".rstrip()
            )


def machine() -> str:
    """Describe processor and versions in a line."""
    import torch

    names = ("torch", "numpy", "faiss-cpu", "usearch", "pylance")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    threads = torch.get_num_threads()
    return (
        f"{processor()}, {threads} threads; Python {platform.python_version()}, {versions}, {RCLIP_VERSION}"
    )


def say(text: str = "") -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
