"""Lance datasets as output: content, updates, and complete versions."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import DIM, picture

import oneclip
from oneclip.embed.outputs import check_output
from oneclip.embed.rows import EmbeddingMetadata, EmbeddingRows
from oneclip.embed.run import EmbedOutcome, embed
from oneclip.embed.sources import find_sources
from oneclip.embed.store import EmbeddingStore
from oneclip.errors import MissingExtraError, OutputError
from oneclip.installation import install_command

lance = pytest.importorskip("lance", reason="pylance is not installed")

Embed = Callable[..., EmbedOutcome]  # the fixture `run`
OUT = "vectors.lance"


def rows() -> dict[str, list[float]]:
    """Names and vectors of the latest version; no name is there twice."""
    table = lance.dataset(OUT).to_table()
    names = table["name"].to_pylist()
    assert len(names) == len(set(names))
    return dict(zip(names, table["vector"].to_pylist(), strict=True))


def test_a_dataset_has_the_columns_of_parquet_and_can_be_searched(
    encoder: oneclip.Encoder, run: Embed, photos: Path
) -> None:
    import pyarrow as pa

    assert run(photos, output=OUT).rows == 6
    dataset = lance.dataset(OUT)
    assert dataset.schema.names == ["name", "sha256", "vector", "size", "mtime_ns"]
    assert dataset.schema.field("vector").type == pa.list_(pa.float32(), DIM)
    assert (
        dataset.schema.metadata[b"oneclip.weights"].decode()
        == EmbeddingMetadata.for_encoder(encoder, "exact").weights
    )
    paths = sorted(map(str, photos.iterdir()))
    np.testing.assert_allclose([rows()[path] for path in paths], encoder.encode_images(paths), atol=1e-5)
    query = np.array(rows()["photos/4.jpg"], np.float32)
    nearest = dataset.to_table(
        nearest={"column": "vector", "q": query, "k": 1}, columns=["name", "_distance"]
    )
    assert nearest["name"].to_pylist() == ["photos/4.jpg"]
    assert not list(Path().glob("vectors.lance.*"))


def test_a_dataset_collects_rows_and_a_changed_image_replaces_its_row(run: Embed, photos: Path) -> None:
    picture(7).save("it's more.jpg")
    run(photos, output=OUT)
    before = rows()
    run("it's more.jpg", output=OUT)
    picture(8).save(photos / "0.jpg")
    outcome = run(photos, output=OUT)
    assert (outcome.kept, outcome.encoded, outcome.rows) == (5, 1, 7)
    assert rows().keys() == before.keys() | {"it's more.jpg"}
    assert {name for name in before if before[name] != rows()[name]} == {"photos/0.jpg"}
    Path("it's more.jpg").write_bytes(b"broken")
    assert run("it's more.jpg", output=OUT).rows == 6
    assert rows().keys() == before.keys()
    picture(7).save("it's more.jpg")
    assert run("it's more.jpg", output=OUT).encoded == 1
    assert len(rows()) == 7


def test_a_row_dropped_and_added_in_one_run_exists_once(photos: Path) -> None:
    metadata = EmbeddingMetadata("m", "w", "s", "fp32", "exact", "images")
    vector = np.ones(DIM, np.float32)
    with EmbeddingStore(Path(OUT), metadata) as store:
        store.add("a", "1" * 64, vector)
        store.flush()
        store.forget("a")
        store.add("a", "2" * 64, vector)
        assert store.finish([]) == 1
    assert len(rows()) == 1


def test_each_part_is_a_version_and_readers_keep_theirs(
    run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.embed.store.PART_ROWS", 2)
    run(photos, output=OUT)
    counts = [lance.dataset(OUT, version=v["version"]).count_rows() for v in lance.dataset(OUT).versions()]
    assert counts == [2, 4, 6]
    reader = lance.dataset(OUT)
    for i in range(6):
        picture(20 + i).save(photos / f"{i}.jpg")
    old = reader.to_table()["vector"].to_pylist()
    run(photos, output=OUT)
    assert reader.to_table()["vector"].to_pylist() == old
    assert set(map(tuple, rows().values())).isdisjoint(map(tuple, old))


def test_a_disk_that_fills_up_keeps_every_version_and_the_next_run_goes_on(
    run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.embed.store.PART_ROWS", 2)
    write, written = lance.write_dataset, []

    def until_full(*arguments: object, **options: object) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(write(*arguments, **options))

    with monkeypatch.context() as patch:
        patch.setattr(lance, "write_dataset", until_full)
        with pytest.raises(OutputError, match=r"vectors.lance could not be written: .*No space left"):
            run(photos, output=OUT)
    assert len(rows()) == 4
    outcome = run(photos, output=OUT)
    assert (outcome.kept, outcome.encoded, outcome.rows) == (4, 2, 6)
    assert len(rows()) == 6


def test_another_model_is_refused_and_overwrite_replaces_the_output(
    encoder: oneclip.Encoder, run: Embed, photos: Path
) -> None:
    run(photos, output=OUT)
    with pytest.raises(OutputError, match="decode exact, not fast"):
        run(photos, output=OUT, decode="fast")
    with EmbeddingStore(Path(OUT), EmbeddingMetadata.for_encoder(encoder, "fast"), overwrite=True) as store:
        assert embed(encoder, find_sources(["photos/1.jpg"]), store, decode="fast").rows == 1
    assert list(rows()) == ["photos/1.jpg"]
    assert lance.dataset(OUT).schema.metadata[b"oneclip.decode"] == b"fast"


def test_a_second_run_at_once_is_refused(encoder: oneclip.Encoder, run: Embed, photos: Path) -> None:
    metadata = EmbeddingMetadata.for_encoder(encoder, "exact")
    with (
        EmbeddingStore(Path(OUT), metadata),
        pytest.raises(OutputError, match="another `oneclip embed` is writing"),
    ):
        EmbeddingStore(Path(OUT), metadata).__enter__()
    assert not Path(OUT).exists()  # nothing was written


def test_a_path_that_is_not_our_dataset_is_reported_before_the_work(photos: Path) -> None:
    import pyarrow as pa

    lance.write_dataset(pa.table({"x": [1]}), "other.lance")
    with pytest.raises(OutputError, match="was not written by `oneclip embed`"):
        check_output(Path("other.lance"), ".parquet")
    check_output(Path("other.lance"), ".parquet", overwrite=True)
    Path("file.lance").write_bytes(b"x")
    with pytest.raises(OutputError, match="is a file"):
        check_output(Path("file.lance"), ".parquet")
    photos.rename("photos.lance")
    with pytest.raises(OutputError, match="is not a Lance dataset"):
        check_output(Path("photos.lance"), ".parquet")


def test_without_its_library_it_names_the_extra(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.embed.formats.lance.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("lance"))):
        check_output(Path(OUT), ".parquet")


def test_a_damaged_dataset_is_reported_and_unchanged(
    encoder: oneclip.Encoder, run: Embed, photos: Path
) -> None:
    run(photos, output=OUT)
    (data,) = Path(OUT, "data").iterdir()
    data.write_bytes(b"damaged")
    with pytest.raises(OutputError, match=r"damaged.*--overwrite"):
        run(photos, output=OUT)
    with EmbeddingStore(Path(OUT), EmbeddingMetadata.for_encoder(encoder, "exact"), overwrite=True) as store:
        assert embed(encoder, find_sources(["photos"]), store).rows == 6
    assert len(rows()) == 6


def test_names_that_are_not_unicode_are_refused(encoder: oneclip.Encoder, photos: Path) -> None:
    with EmbeddingStore(Path(OUT), EmbeddingMetadata.for_encoder(encoder, "exact")) as store:
        assert "not valid Unicode" in str(store.invalid_name_reason("\udcff.jpg"))
        store._parts.write(EmbeddingRows(["\0 'a'"], ["1" * 64], np.ones((1, DIM), np.float32), [None]))
        store.forget("\0 'a'")
        assert store.finish([]) == 0
    assert rows() == {}
