"""Export to Lance and search there: the same results as the index, updates, approximate indexes and refusals."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import write_image
from tiny import DIM, write_tiny_model

import oneclip
from oneclip.embed.rows import EmbeddingMetadata, EmbeddingRows
from oneclip.embed.run import embed
from oneclip.embed.sources import find_sources
from oneclip.embed.store import EmbeddingStore
from oneclip.errors import ConfigError, DataError, OfflineError, OutputError
from oneclip.search import Index
from oneclip.search.handover import open_index
from oneclip.search.handover.lance import export_lance
from oneclip.search.handover.lance_recall import measure_recall
from oneclip.search.handover.lance_search import LanceSearch

lance = pytest.importorskip("lance", reason="pylance is not installed")

OUT = "photos.lance"
Embed = Callable[..., Any]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a temporary folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def index(index: Index, photos: Path) -> Index:
    """An index of six images."""
    index.update(photos)
    return index


@pytest.fixture
def run(encoder: oneclip.Encoder) -> Embed:
    """Runs `oneclip embed` on words, into the dataset."""

    def call(*words: object) -> Any:
        with EmbeddingStore(OUT, EmbeddingMetadata.for_encoder(encoder, "exact")) as store:
            return embed(encoder, find_sources([str(word) for word in words]), store, decode="exact")

    return call


def rows(location: str = OUT) -> dict[str, dict[str, Any]]:
    """Rows of the latest version by name; no name is there twice."""
    found = lance.dataset(location).to_table().to_pylist()
    assert len({row["name"] for row in found}) == len(found)
    return {row["name"]: row for row in found}


def change(photos: Path) -> None:
    """Change one image, remove one, add one."""
    write_image(photos / "1.png", 11)
    os.utime(photos / "1.png", (1_600_000_100, 1_600_000_100))
    (photos / "2.png").unlink()
    write_image(photos / "it's new.png", 12)


def write_vectors(encoder: oneclip.Encoder, count: int, dim: int = DIM) -> np.ndarray:
    """Write a dataset of random vectors around random centres, as `oneclip embed` does, and return them."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(20, dim))[random.integers(20, size=count)] + 0.3 * random.normal(
        size=(count, dim)
    )
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = [f"{i}.jpg" for i in range(count)]
    digests = [f"{i:064x}" for i in range(count)]
    with EmbeddingStore(OUT, EmbeddingMetadata.for_encoder(encoder, "exact")) as store:
        store._parts.write(EmbeddingRows(names, digests, vectors, [None] * count))
    return vectors


# -------------------------------------------------------------------------------------------------------------- export


def test_a_row_has_what_embed_writes_and_the_facts_of_the_image(
    index: Index, photos: Path, run: Embed
) -> None:
    result = export_lance(index, OUT)
    assert (result.rows, result.added, result.vector_index) == (6, 6, None)
    path = str(photos / "3.png")
    (entry,) = (entry for entry in index.entries() if entry.path == path)
    row = rows()[path]
    vector, normalizer = np.array(row.pop("vector"), np.float32), row.pop("log_normalizer")
    np.testing.assert_allclose(vector, index.encoder.encode_images([path])[0], atol=1e-5)
    assert normalizer == pytest.approx(float(index.relevance.log_normalizers(vector[None])[0]), abs=1e-4)
    facts = {"width": 40, "height": 36, "format": "png", "perceptual_hash": entry.facts.perceptual_hash}
    unknown = dict.fromkeys(["taken_at", "camera", "latitude", "longitude"])
    stamp = {"sha256": entry.sha256, "size": os.path.getsize(path), "mtime_ns": 1_600_000_000 * 10**9}
    assert row == {"name": path, "path": "3.png", **facts, **unknown, **stamp}


def test_embed_continues_an_exported_dataset(index: Index, photos: Path, run: Embed) -> None:
    export_lance(index, OUT)
    assert run(photos).kept == 6
    change(photos)
    outcome = run(photos)
    assert (outcome.kept, outcome.encoded) == (4, 2)
    assert rows()[str(photos / "1.png")]["width"] is None  # of the old content
    assert rows()[str(photos / "0.png")]["width"] == 40


def test_an_export_completes_a_dataset_of_embed(
    index: Index, photos: Path, run: Embed, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    write_image(tmp_path / "more" / "7.png", 7)
    run("more")
    run(*(photos / f"{i}.png" for i in range(3)))
    absolute = {os.path.abspath(name) for name in rows()}
    result = export_lance(index, OUT)
    assert (result.added + result.changed, result.removed, result.unchanged) == (6, 0, 0)
    assert {os.path.abspath(name) for name in rows()} == absolute | {entry.path for entry in index.entries()}
    assert export_lance(index, OUT).unchanged == 6


def test_a_second_export_writes_only_what_has_changed(index: Index, photos: Path) -> None:
    export_lance(index, OUT)
    change(photos)
    index.update()
    result = export_lance(index, OUT)
    assert (result.added, result.changed, result.removed, result.unchanged, result.rows) == (1, 1, 1, 4, 6)
    found = rows()
    assert {name: row["sha256"] for name, row in found.items()} == {e.path: e.sha256 for e in index.entries()}
    version = lance.dataset(OUT).version
    assert export_lance(index, OUT).unchanged == 6
    assert lance.dataset(OUT).version == version


def test_an_interrupted_export_is_continued(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.search.handover.rows.BATCH_BYTES", 2 * 4 * DIM)
    write, writes = lance.write_dataset, []

    def until_full(*arguments: object, **options: object) -> object:
        if len(writes) == 2:
            raise OSError("no space left, rust/lance/src/dataset/write.rs:70:5")
        writes.append(1)
        return write(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(lance, "write_dataset", until_full)
        with pytest.raises(OutputError, match=r"photos\.lance could not be written: no space left$"):
            export_lance(index, OUT)
    assert len(rows()) == 4
    result = export_lance(index, OUT)
    assert (result.added, result.unchanged) == (2, 4)


def test_another_model_is_refused_and_overwrite_replaces_the_dataset(
    index: Index, photos: Path, tmp_path: Path
) -> None:
    other = Index("other.index", model=oneclip.load(write_tiny_model(tmp_path / "other.safetensors", seed=1)))
    other.update(photos)
    export_lance(index, OUT)
    with pytest.raises(OutputError, match=r"weights .* Nothing was changed"):
        export_lance(other, OUT)
    assert export_lance(index, OUT).unchanged == 6
    assert export_lance(other, OUT, overwrite=True).added == 6
    np.testing.assert_allclose(
        rows()[str(photos / "0.png")]["vector"],
        other.encoder.encode_images([str(photos / "0.png")])[0],
        atol=1e-5,
    )


def test_vectors_may_be_stored_in_half_precision(index: Index) -> None:
    export_lance(index, OUT, stored="fp16")
    assert str(lance.dataset(OUT).schema.field("vector").type.value_type) == "halffloat"
    assert export_lance(index, OUT).unchanged == 6
    assert LanceSearch(OUT, model=index.encoder).search("a cat", top_k=6).hits


def test_a_name_that_is_not_unicode_is_skipped_and_named(index: Index, photos: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    try:
        write_image(photos / name, 8)
    except OSError:
        pytest.skip("file names here are Unicode")
    index.update()
    result = export_lance(index, OUT)
    assert (result.rows, result.skipped) == (6, [str(photos / name)])


def test_a_location_that_cannot_be_written_is_refused(
    index: Index, tmp_path: Path, encoder: oneclip.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.lance"):
        export_lance(index, "photos")
    Path("notes.lance").mkdir()
    Path("notes.lance/text").touch()
    with pytest.raises(OutputError, match="is not a Lance dataset"):
        export_lance(index, "notes.lance")
    with pytest.raises(DataError, match="has no images"):
        export_lance(Index("empty.index", model=encoder), OUT)
    assert not Path(OUT).exists()
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    with pytest.raises(OfflineError):
        export_lance(index, "s3://bucket/photos.lance")


def test_the_dataset_may_be_behind_an_address(index: Index, tmp_path: Path) -> None:
    for added in (6, 0):
        assert export_lance(index, f"file-object-store://{tmp_path}/remote.lance").added == added
    search = LanceSearch(f"file-object-store://{tmp_path}/remote.lance", model=index.encoder)
    assert [hit.path for hit in search.search("a cat")] == [hit.path for hit in index.search("a cat")]


# -------------------------------------------------------------------------------------------------------------- search


@pytest.mark.parametrize(
    ("queries", "options"),
    [
        (("a cat",), {}),
        (("a cat", "3:a dog"), {"exclude": "a house"}),
        (("a cat",), {"like": "photos/4.png"}),
        (("a cat",), {"where": "path ~ '3' or width > 100"}),
        (("a cat",), {"where": "bytes > 1 and orientation = landscape and camera is empty", "top_k": 3}),
        (("a cat",), {"min_relevance": 0.005}),
        (("a cat",), {"distinct": True, "sort": "date"}),
    ],
)
def test_a_search_finds_what_the_index_finds(
    index: Index, photos: Path, queries: tuple[str, ...], options: dict[str, Any]
) -> None:
    (photos / "copy.png").write_bytes((photos / "5.png").read_bytes())
    index.update()
    export_lance(index, OUT)
    found = LanceSearch(OUT, model=index.encoder).search(*queries, **options)
    expected = index.search(*queries, **options)
    assert [hit.path for hit in found] == [hit.path for hit in expected]
    for a, b in zip(found, expected, strict=True):
        assert (a.score, a.relevance) == pytest.approx((b.score, b.relevance), abs=1e-4)
        assert (a.sha256, a.width, a.format, a.perceptual_hash) == (
            b.sha256,
            b.width,
            b.format,
            b.perceptual_hash,
        )
    assert (found.hidden, found.repeated) == (expected.hidden, expected.repeated)


def test_a_folder_may_be_searched_alone(index: Index, photos: Path) -> None:
    (photos / "it's deep").mkdir()
    write_image(photos / "it's deep" / "7.png", 7)
    index.update()
    export_lance(index, OUT)
    search = LanceSearch(OUT, model=index.encoder)
    assert [hit.path for hit in search.search("a cat", under=photos / "it's deep")] == [
        str(photos / "it's deep" / "7.png")
    ]


def test_a_dataset_of_embed_is_searched_with_the_same_scores(index: Index, photos: Path, run: Embed) -> None:
    run(photos)
    search = LanceSearch(OUT, model=index.encoder)
    found, expected = search.search("a cat"), index.search("a cat")
    assert [os.path.abspath(hit.path) for hit in found] == [hit.path for hit in expected]
    for a, b in zip(found, expected, strict=True):
        assert (a.score, a.relevance) == pytest.approx((b.score, b.relevance), abs=1e-4)
        assert (a.width, a.format, a.taken_at) == (0, "", None)
    assert len(search.search("a cat", where="bytes > 1")) == 6
    with pytest.raises(DataError, match=r"the filter needs height, width, which photos\.lance does not have"):
        search.search("a cat", where="megapixels > 2")


def test_another_model_is_refused_before_the_search(index: Index, tmp_path: Path) -> None:
    export_lance(index, OUT)
    other = write_tiny_model(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(ConfigError, match=r"the dataset photos\.lance was made by .* Leave out the model"):
        LanceSearch(OUT, model=str(other)).search("a cat")


def test_the_model_of_a_dataset_is_found_from_any_folder(
    model_file: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_file.parent)
    index = Index(tmp_path / "named.index", model=model_file.name)
    index.update(photos)
    export_lance(index, tmp_path / OUT)
    monkeypatch.chdir(tmp_path)
    assert LanceSearch(OUT).search("a cat").model == model_file.name


def test_a_dataset_that_cannot_be_searched_is_refused(encoder: oneclip.Encoder) -> None:
    import pyarrow as pa

    with pytest.raises(DataError, match=r"none\.lance is not a Lance dataset"):
        open_index("none.lance")
    lance.write_dataset(pa.table({"x": [1]}), "strange.lance")
    with pytest.raises(DataError, match="does not say which model made its vectors"):
        open_index("strange.lance")
    with EmbeddingStore("texts.lance", EmbeddingMetadata.for_encoder(encoder, "text")) as store:
        store.add("a", "0" * 64, np.ones(DIM, np.float32))
        store.finish(["a"])
    with pytest.raises(DataError, match="embeddings of texts; expected embeddings of images"):
        open_index("texts.lance")


def test_open_index_opens_both_kinds(index: Index) -> None:
    export_lance(index, OUT)
    assert isinstance(open_index(OUT), LanceSearch)
    assert isinstance(open_index(index.path), Index)


# --------------------------------------------------------------------------------------------------- approximate index


def test_the_index_finds_what_an_exact_search_finds(encoder: oneclip.Encoder) -> None:
    from oneclip.search.handover.lance_dataset import nearest, update_vector_index

    vectors = write_vectors(encoder, 3_000)
    assert measure_recall(OUT) == 1.0  # without an index
    assert update_vector_index(lance.dataset(OUT), "auto") is None
    assert update_vector_index(lance.dataset(OUT), "IVF_SQ") == "IVF_SQ"
    dataset = lance.dataset(OUT)
    assert measure_recall(dataset, 30, probes=3) > 0.95
    exact = np.argsort(-(vectors @ vectors[7]))[:10]
    found = nearest(dataset, vectors[7], 10, columns=["name"], probes=3)["name"].to_pylist()
    assert len({f"{i}.jpg" for i in exact} & set(found)) >= 9


def test_recall_is_the_share_that_was_found(
    encoder: oneclip.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oneclip.search.handover import lance_recall
    from oneclip.search.handover.lance_dataset import update_vector_index

    write_vectors(encoder, 500)
    update_vector_index(lance.dataset(OUT), "IVF_FLAT")
    nearest = lance_recall.nearest

    def without_the_last_two(*arguments: Any, **options: Any) -> Any:
        return nearest(*arguments, **{**options, "probes": 2}).slice(0, 9)  # itself and 8 others

    monkeypatch.setattr(lance_recall, "nearest", without_the_last_two)
    assert measure_recall(OUT, 20) == pytest.approx(0.8)


def test_an_export_builds_an_index_measures_it_and_adds_new_rows(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.search.handover.lance_dataset.INDEX_FROM", 6)
    result = export_lance(index, OUT)
    assert (result.vector_index, result.image_recall, result.text_recall) == ("IVF_SQ", 1.0, 1.0)
    write_image(photos / "7.png", 7)
    index.update()
    export_lance(index, OUT)
    search = LanceSearch(OUT, model=index.encoder)
    status = search.status(recall=True)
    assert (status.rows, status.vector_index, status.unindexed, status.image_recall) == (7, "IVF_SQ", 0, 1.0)
    assert [hit.path for hit in search.search("a cat")] == [hit.path for hit in index.search("a cat")]
    assert search.search("a cat", where="path = 7.png")[0].path == str(photos / "7.png")


def test_an_index_is_dropped_or_replaced_on_request(index: Index) -> None:
    assert export_lance(index, OUT, vector_index="IVF_FLAT").vector_index == "IVF_FLAT"
    assert export_lance(index, OUT, vector_index="IVF_SQ").vector_index == "IVF_SQ"
    assert export_lance(index, OUT, vector_index="none").vector_index is None
    assert LanceSearch(OUT, model=index.encoder).status().vector_index is None
    with pytest.raises(ConfigError, match="unknown index 'IVF'; available: auto, none"):
        export_lance(index, OUT, vector_index="IVF")


def test_rows_that_were_added_after_the_index_are_found(encoder: oneclip.Encoder) -> None:
    from oneclip.search.handover.lance_dataset import update_vector_index

    write_vectors(encoder, 500)
    update_vector_index(lance.dataset(OUT), "IVF_FLAT")
    vector = encoder.encode_texts(["a cat"])[0]
    with EmbeddingStore(OUT, EmbeddingMetadata.for_encoder(encoder, "exact")) as store:
        store.add("new.jpg", "1" * 64, vector)
        store.finish([])
    search = LanceSearch(OUT, model=encoder)
    assert search.search("a cat", top_k=1)[0].path == "new.jpg"
    assert search.status().unindexed == 1
