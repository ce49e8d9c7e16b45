"""Stores with concurrent runs, other models and several sources; the cache."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import DIM, picture, write_tiny_model

import oneclip
from oneclip.embed.cache import EmbeddingCache
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.embed.run import EmbedOutcome, embed
from oneclip.embed.sources import find_sources
from oneclip.embed.store import EmbeddingStore
from oneclip.errors import ConfigError, OutputError

Embed = Callable[..., EmbedOutcome]  # the fixture `run`


def names(path: str = "vectors.npz") -> list[str]:
    return np.load(path)["names"].tolist()


def parquet_names(folder: str) -> list[str]:
    found = pytest.importorskip("pyarrow.parquet").read_table(folder)["name"].to_pylist()
    return sorted(found)


# --------------------------------------------------------------------------------------------- two, and another


def test_a_second_run_on_the_same_output_is_refused(
    encoder: oneclip.Encoder, run: Embed, photos: Path
) -> None:
    for output in ("vectors.npz", "folder"):
        with EmbeddingStore(Path(output), EmbeddingMetadata.for_encoder(encoder, "exact")) as first:
            answers: list[Exception] = []

            def second(output: str = output, answers: list[Exception] = answers) -> None:
                try:
                    run(photos, output=output)
                except OutputError as error:
                    answers.append(error)

            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
            assert "another `oneclip embed` is writing" in str(answers[0])
            assert embed(encoder, find_sources(["photos"]), first).rows == 6
        assert run(photos, output=output).kept == 6


@pytest.mark.parametrize("output", ["vectors.npz", "folder"])
def test_an_output_of_another_model_is_refused_with_the_difference(
    run: Embed, photos: Path, output: str, tmp_path: Path
) -> None:
    run(photos, output=output)
    with pytest.raises(OutputError, match="decode exact, not fast"):
        run(photos, output=output, decode="fast")
    Path("captions.txt").write_text("a cat", encoding="utf-8")
    with pytest.raises(OutputError, match="settings: kind images, not texts"):
        run("captions.txt", output=output, decode="text")
    other = oneclip.load(write_tiny_model(tmp_path / "other.safetensors", seed=3))
    with (
        pytest.raises(OutputError, match="weights"),
        EmbeddingStore(Path(output), EmbeddingMetadata.for_encoder(other, "exact")),
    ):
        pass


def test_identity_depends_on_weights_not_names(run: Embed, photos: Path, tmp_path: Path) -> None:
    one = oneclip.load(write_tiny_model(tmp_path / "a.safetensors", seed=3))
    two = oneclip.load(write_tiny_model(tmp_path / "b.safetensors", seed=3))
    assert (
        EmbeddingMetadata.for_encoder(one, "exact").identity
        == EmbeddingMetadata.for_encoder(two, "exact").identity
    )
    half = oneclip.load(tmp_path / "b.safetensors", precision="bf16")
    assert (
        EmbeddingMetadata.for_encoder(half, "exact").identity
        != EmbeddingMetadata.for_encoder(two, "exact").identity
    )


def test_a_folder_of_another_program_is_refused(run: Embed, photos: Path) -> None:
    with pytest.raises(OutputError, match="was not written by"):
        run(photos, output="photos")
    assert len(list(photos.iterdir())) == 6


def test_a_folder_collects_rows_and_a_changed_image_has_one(run: Embed, photos: Path) -> None:
    picture(7).save("more.jpg")
    run(photos, output="folder")
    run("more.jpg", output="folder")
    picture(8).save(photos / "0.jpg")
    outcome = run(photos, output="folder")
    assert (outcome.kept, outcome.encoded, outcome.rows) == (5, 1, 7)
    assert parquet_names("folder") == ["more.jpg", *(f"photos/{i}.jpg" for i in range(6))]


def test_a_folder_has_parts_of_one_format(encoder: oneclip.Encoder, run: Embed, photos: Path) -> None:
    run(photos, output="folder")
    metadata = EmbeddingMetadata.for_encoder(encoder, "exact")
    with pytest.raises(OutputError, match=r"another format \(part-000000\.parquet\)"):
        EmbeddingStore("folder", metadata, folder_suffix=".npz").__enter__()
    with EmbeddingStore("folder", metadata, folder_suffix=".npz", overwrite=True) as store:
        assert embed(encoder, find_sources(["photos"]), store).rows == 6
    assert [path.suffix for path in Path("folder").glob("part-*")] == [".npz"]


def test_a_file_contains_the_items_of_the_last_source(run: Embed, photos: Path) -> None:
    run(photos)
    assert run("photos/3.jpg", "photos/1.jpg").kept == 2
    assert names() == ["photos/3.jpg", "photos/1.jpg"]


# ---------------------------------------------------------------------------------------------------- the cache


def test_the_cache_finds_content_under_any_name_for_one_model_only(
    encoder: oneclip.Encoder, run: Embed, photos: Path
) -> None:
    exact = EmbeddingMetadata.for_encoder(encoder, "exact")
    with EmbeddingCache(Path("cache"), exact, DIM) as cache:
        run(photos, cache=cache)
        photos.rename("renamed")
        outcome = run("renamed", output="b.npz", cache=cache)
    assert (outcome.encoded, outcome.repeated) == (0, 6)
    np.testing.assert_array_equal(np.load("vectors.npz")["vectors"], np.load("b.npz")["vectors"])
    with EmbeddingCache(Path("cache"), EmbeddingMetadata.for_encoder(encoder, "fast"), DIM) as other:
        digest = np.load("b.npz")["sha256"][0].decode()
        assert other.find(digest) is None
    with EmbeddingCache(Path("cache"), exact, DIM) as cache:
        found = cache.find(digest)
        assert found is not None
        assert found.shape == (DIM,)


def test_a_damaged_cache_is_reported(encoder: oneclip.Encoder, photos: Path) -> None:
    metadata = EmbeddingMetadata.for_encoder(encoder, "exact")
    with EmbeddingCache(Path("cache"), metadata, DIM) as cache:
        path = cache.path
    path.write_bytes(b"no data base" * 1000)
    with pytest.raises(OutputError, match=r"not a database\. Delete that file, or run without --cache"):
        EmbeddingCache(Path("cache"), metadata, DIM)


@pytest.mark.parametrize(
    "damaged", [b"xx", b"", "text", b"\0\0\xc0\x7f" * DIM], ids=["short", "empty", "text", "nan"]
)
def test_a_damaged_embedding_is_computed_again(
    encoder: oneclip.Encoder, run: Embed, photos: Path, damaged: object
) -> None:
    with EmbeddingCache(Path("cache"), EmbeddingMetadata.for_encoder(encoder, "exact"), DIM) as cache:
        run(photos, cache=cache)
        with cache._base:
            cache._base.execute("UPDATE vectors SET vector = ?", (damaged,))
        assert run(photos, output="b.npz", cache=cache).encoded == 6
        assert run(photos, output="c.npz", cache=cache).encoded == 0
    np.testing.assert_array_equal(np.load("vectors.npz")["vectors"], np.load("c.npz")["vectors"])


def test_the_folder_of_a_cache_that_cannot_be_made(encoder: oneclip.Encoder, photos: Path) -> None:
    Path("file").write_text("")
    with pytest.raises(
        OutputError, match=r"folder file/cache of the cache cannot be made: Not a directory\. Choose"
    ):
        EmbeddingCache(Path("file/cache"), EmbeddingMetadata.for_encoder(encoder, "exact"), DIM)


def test_a_failing_cache_ends_the_run_without_blaming_an_image(
    encoder: oneclip.Encoder, run: Embed, photos: Path
) -> None:
    cache = EmbeddingCache(Path("cache"), EmbeddingMetadata.for_encoder(encoder, "exact"), DIM)
    cache._base.close()
    with pytest.raises(OutputError, match="cannot be used") as caught:
        run(photos, cache=cache)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert not Path("vectors.npz.errors.csv").exists()


def test_an_unknown_decode_mode_is_refused(run: Embed, photos: Path) -> None:
    with pytest.raises(ConfigError, match="'exact' or 'fast'"):
        run(photos, decode="quick")
