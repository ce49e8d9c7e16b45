"""Valid tokenizers, images, collections, outputs and settings, and their readers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import small_datasets
import tiny_tokenizers
from mutated_checkpoints import CFG, PIXELS, Format
from PIL import Image
from tars import members, png, tar, write_tar

from oneclip.errors import OneCLIPError

CAPTIONS = ["a photo of a cat", "&amp;amp;lt; ünïcode 漢字", "", "x" * 300]


def tokenizer(make: Callable[[Path], Path], *files: str) -> Format:
    """Read a tokenizer folder, and tokenize texts that it must cut."""

    def read(folder: Path) -> None:
        from oneclip.text import HFTokenizer

        made = HFTokenizer(folder, 16)
        made(CAPTIONS)
        made.decode(made.encode(CAPTIONS[0]))

    return Format(make, read, files)


def merges(folder: Path) -> None:
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in tiny_tokenizers.merges_of(["cat", "photo"])[1])]
    (folder / "bpe.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def read_merges(folder: Path) -> None:
    from oneclip.text import CLIPTokenizer

    CLIPTokenizer(merges=folder / "bpe.txt.gz")(CAPTIONS[:1])


def image(suffix: str, mode: str = "RGB", **options: Any) -> Format:
    """Decode an image file at full and at reduced size."""

    def write(folder: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((112, 80)).convert(mode).save(folder / f"a{suffix}", **options)

    def read(folder: Path) -> None:
        from oneclip.image import Preprocess
        from oneclip.image.decode import open_image

        opened = open_image(folder / f"a{suffix}", min_size=lambda size: (32, 32))
        Preprocess(PIXELS)(opened)

    return Format(write, read)


def items(*words: str, texts: bool = False, column: str | None = None) -> Callable[[Path], None]:
    """Read the items of some sources, or the reasons of failures, as `oneclip embed` does."""

    def read(folder: Path) -> None:
        from oneclip.embed.items import Failure
        from oneclip.embed.sources import find_sources
        from oneclip.image.decode import open_image

        for source in find_sources(
            [word.replace("@", f"@{folder}/") if "@" in word else f"{folder}/{word}" for word in words],
            texts=texts,
            column=column,
        ):
            source.count()
            for number, item in enumerate(source):
                if isinstance(item, Failure) or number > 50:
                    continue
                try:
                    content = item.read()
                    content.decode() if texts else open_image(content)
                except (OneCLIPError, OSError, UnicodeDecodeError):
                    continue  # recorded in the table of errors

    return read


def pictures(folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(number))


def table(suffix: str, separator: str = ",") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        pictures(folder)
        lines = [("filepath", "caption"), *((f"{n}.png", f'"a ""{n}"", of {n}"') for n in range(3))]
        (folder / f"t{suffix}").write_text("\n".join(separator.join(line) for line in lines))

    return write


def parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pictures(folder)
    rows = pyarrow.table(
        {
            "filepath": [f"{n % 3}.png" for n in range(40)],
            "caption": [f"caption {n}" for n in range(40)],
            "image": [{"bytes": png(n % 3), "path": None} for n in range(40)],
        }
    )
    pyarrow.parquet.write_table(rows, folder / "t.parquet", row_group_size=16)


def read_pairs(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from oneclip.hub.pairs import read_pairs, with_existing_images

        with_existing_images(read_pairs(folder / name), folder, {})

    return read


def samples(*words: str) -> Callable[[Path], None]:
    """Read all samples, or the reasons of failures, as a training does."""

    def read(folder: Path) -> None:
        from oneclip.train.data.open_dataset import open_dataset

        found = open_dataset([str(folder / word) for word in words], skip_missing=True)
        for sample in found.read_many(range(min(len(found), 20))):
            if isinstance(sample, Exception) and not isinstance(sample, OneCLIPError | OSError):
                raise sample

    return read


def arrow(folder: Path) -> None:
    import pyarrow

    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = pyarrow.array([{"bytes": png(n), "path": None} for n in range(6)], kind)
    rows = pyarrow.table({"image": images, "caption": [f"caption {n}" for n in range(6)]})
    numbers = pyarrow.table({"indices": pyarrow.array([3, 1, 2], pyarrow.uint64())})
    for name, part in (("data.arrow", rows), ("indices.arrow", numbers)):
        with (
            pyarrow.OSFile(str(folder / name), "wb") as out,
            pyarrow.ipc.new_stream(out, part.schema) as stream,
        ):
            for batch in part.to_batches(max_chunksize=4):
                stream.write_batch(batch)
    state = {
        "_data_files": [{"filename": "data.arrow"}],
        "_indices_data_files": [{"filename": "indices.arrow"}],
    }
    (folder / "state.json").write_text(json.dumps(state))


def tar_with_index(folder: Path) -> None:
    from oneclip.train.data.tar_index import tar_index

    write_tar(folder / "a.tar", members(4))
    tar_index(str(folder / "a.tar"))
    with np.load(folder / "a.tar.index") as file:
        (folder / "about.json").write_bytes(file["about"].tobytes())


def read_index(folder: Path) -> None:
    """Read the existing index, as if its tar had not changed; copying changes the time of the tar."""
    from oneclip.train.data import tar_index as module

    about = json.loads((folder / "about.json").read_text())
    index = module._read_index(
        folder / "a.tar.index", {key: about[key] for key in ("format", "size", "change")}
    )
    if index is not None:
        assert int((index.starts + index.sizes).max(initial=0)) <= about["size"]


FACTS = {
    "model": "m",
    "weights": "0" * 64,
    "settings": "1" * 64,
    "precision": "fp32",
    "decode": "exact",
    "kind": "images",
}


def resumed(output: str, *, is_whole: bool) -> Format:
    """Continue an output of `oneclip embed`, finished or not, with the same command."""

    def store(folder: Path) -> Any:
        from oneclip.embed.rows import EmbeddingMetadata
        from oneclip.embed.store import EmbeddingStore

        return EmbeddingStore(folder / output, EmbeddingMetadata(**FACTS))

    def fill(folder: Path) -> None:
        with store(folder) as open_store:
            for n in range(5):
                open_store.add(f"{n}.png", f"{n}" * 64, np.eye(8, dtype=np.float32)[n])
            open_store.flush()
            if is_whole:
                open_store.finish([f"{n}.png" for n in range(5)])

    def read(folder: Path) -> None:
        with store(folder) as open_store:
            names = [name for name, *_ in open_store.rows()]
            open_store.add("new.png", "a" * 64, np.eye(8, dtype=np.float32)[7])
            open_store.finish([*names, "new.png"])

    return Format(fill, read, (output, f"{output}*/*", f"{output}/*"))


def cache(folder: Path) -> None:
    from oneclip.embed.cache import EmbeddingCache
    from oneclip.embed.rows import EmbeddingMetadata

    with EmbeddingCache(folder, EmbeddingMetadata(**FACTS), 8) as kept:
        kept.add({f"{n}" * 64: np.ones(8, np.float32) for n in range(9)})


def read_cache(folder: Path) -> None:
    from oneclip.embed.cache import EmbeddingCache
    from oneclip.embed.rows import EmbeddingMetadata

    with EmbeddingCache(folder, EmbeddingMetadata(**FACTS), 8) as kept:
        for n in range(9):
            kept.find(f"{n}" * 64)
        kept.add({"a" * 64: np.ones(8, np.float32)})


def settings(folder: Path) -> None:
    lines = [
        'data = "pairs.csv"',
        'model = "ViT-B-32"',
        "epochs = 3",
        "lr = 1e-4",
        "out = 'run'",
        "batch_size = 8",
    ]
    (folder / "train.toml").write_text("\n".join(lines) + "\n")


def read_toml(folder: Path) -> None:
    from oneclip.config.run import RunCfg
    from oneclip.config.schema import from_flat
    from oneclip.config.toml_file import read_settings

    from_flat(RunCfg, read_settings(folder / "train.toml", RunCfg))


def model_json(folder: Path) -> None:
    content = {"model_cfg": CFG.to_dict(), "preprocess_cfg": PIXELS.to_dict()}
    (folder / "model.json").write_text(json.dumps(content))


def read_model_json(folder: Path) -> None:
    from oneclip.train.initial_model import read_config

    read_config(folder / "model.json")


def run_folder(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": n, "loss": 1.5}) + "\n" for n in range(9))
    )
    (folder / "environment.json").write_text(json.dumps({"starts": [{"time": "now"}]}))


def read_run_folder(folder: Path) -> None:
    from oneclip.train.reporting.environment import append_start
    from oneclip.train.reporting.metrics import MetricsFile, read_metrics

    MetricsFile(folder / "metrics.jsonl").truncate_after(5)
    read_metrics(folder / "metrics.jsonl")
    append_start((folder / "environment.json").read_text(encoding="utf-8", errors="replace"))


def templates(folder: Path) -> None:
    (folder / "t.txt").write_text("a photo of {}.\nart of {}\n")


def read_the_templates(folder: Path) -> None:
    from oneclip.evaluate.templates import read_templates
    from oneclip.text.labels import label_prompts

    label_prompts(["cat", "dog"], read_templates(str(folder / "t.txt")))


def evaluated(name: str = "") -> Callable[[Path], object]:
    """Read all samples of a data set for an evaluation, and their images."""

    def read(folder: Path) -> None:
        from oneclip.evaluate.data import Sample, open_dataset

        for split in open_dataset(folder / name).splits.values():
            for sample in split:
                if isinstance(sample, Sample):
                    with suppress(OSError):  # which `Item.read` may raise
                        sample.item.read()

    return read


def suite(folder: Path) -> None:
    (folder / "mine.toml").write_text(
        'suites = ["vtab"]\n\n[[dataset]]\nsource = "colours"\nclasses = ["a", "b"]\nskip_missing = true\n'
    )


def read_suite(folder: Path) -> None:
    from oneclip.evaluate.data import open_suite

    open_suite(str(folder / "mine.toml"))


def class_files(folder: Path) -> None:
    small_datasets.make_classes(folder / "colours", classes=("blue", "red"), per_class=1)
    (folder / "names.json").write_text(json.dumps({"colours": ["sky", "rose"], "other": ["a"]}))
    (folder / "prompts.json").write_text(json.dumps({"colours": {"sky": ["the sky"]}, "other": ["a {c}"]}))


def read_class_files(folder: Path) -> None:
    from oneclip.evaluate.data import open_dataset

    open_dataset(folder / "colours", classes=folder / "names.json", templates=folder / "prompts.json")


def lines(folder: Path) -> None:
    pictures(folder)
    (folder / "list.txt").write_text("0.png\n1.png\n# a remark\n./2.png\n")


def packed(name: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        content = tar(members(4))
        (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith("gz") else content)

    return write


def formats() -> Iterator[tuple[str, Format]]:
    yield "tokenizer.json", tokenizer(tiny_tokenizers.bert, "*.json")
    yield "vocab.txt", tokenizer(tiny_tokenizers.vocab_txt, "*")
    yield "vocab.json and merges.txt", tokenizer(tiny_tokenizers.vocab_json_and_merges, "*")
    yield "sentencepiece", tokenizer(tiny_tokenizers.t5, "*")
    yield "CLIP's merges", Format(merges, read_merges)
    yield "JPEG", image(".jpg", quality=80)
    yield "PNG", image(".png")
    yield "WebP", image(".webp")
    yield "GIF", image(".gif", "P")
    yield "TIFF", image(".tif", compression="tiff_lzw")
    yield "BMP", image(".bmp")
    yield "JPEG 2000", image(".jp2")
    yield "CSV, images", Format(table(".csv"), items("t.csv"), ("t.csv",))
    yield "TSV, captions", Format(table(".tsv", "\t"), items("t.tsv", texts=True), ("t.tsv",))
    yield "CSV, pairs", Format(table(".csv"), read_pairs("t.csv"), ("t.csv",))
    yield "Parquet, images", Format(parquet, items("t.parquet", column="image"), ("t.parquet",))
    yield "Parquet, pairs", Format(parquet, read_pairs("t.parquet"), ("t.parquet",))
    yield "Parquet, dataset", Format(parquet, samples("t.parquet"), ("t.parquet",))
    yield "Arrow dataset", Format(arrow, samples(""), ("*",))
    yield "list of images", Format(lines, items("@list.txt"), ("list.txt",))
    yield "tar", Format(packed("a.tar"), items("a.tar"), ("a.tar",))
    yield "tar, compressed", Format(packed("a.tar.gz"), items("a.tar.gz"), ("a.tar.gz",))
    yield "tar, training", Format(packed("a.tar"), samples("a.tar"), ("a.tar",))
    yield "index of a tar", Format(tar_with_index, read_index, ("a.tar.index",))
    yield "output .npz", resumed("v.npz", is_whole=True)
    yield "output .npz, unfinished", resumed("v.npz", is_whole=False)
    yield "output .parquet", resumed("v.parquet", is_whole=True)
    yield "output folder", resumed("vectors", is_whole=True)
    yield "cache", Format(cache, read_cache)
    yield "settings", Format(settings, read_toml)
    yield "model.json", Format(model_json, read_model_json)
    yield "folder of a run", Format(run_folder, read_run_folder)
    yield "templates", Format(templates, read_the_templates)
    yield "webdataset, classes", Format(small_datasets.make_wds, evaluated(), ("**/*",))
    several = partial(small_datasets.make_wds, kind="multilabel")
    yield "webdataset, multilabel", Format(several, evaluated(), ("**/*",))
    yield "Arrow dataset, classes", Format(small_datasets.make_hf_dataset, evaluated(), ("**/*",))
    rows = partial(small_datasets.make_hf_dataset, form="parquet")
    yield "Parquet dataset, classes", Format(rows, evaluated(), ("**/*",))
    yield "Winoground", Format(small_datasets.make_winoground, evaluated(), ("examples.jsonl",))
    yield "SugarCrepe", Format(small_datasets.make_sugar_crepe, evaluated(), ("*.json",))
    yield "suite", Format(suite, read_suite)
    yield "class names and prompts", Format(class_files, read_class_files, ("*.json",))
