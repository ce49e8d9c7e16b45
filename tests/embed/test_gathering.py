"""Two runs at once, two makings, two sources: what is refused, what gathers, and what a cache finds again."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import DIM, picture, write_tiny_model

import oneclip
from oneclip.embed.cache import Cache
from oneclip.embed.rows import Facts
from oneclip.embed.run import Outcome, embed
from oneclip.embed.sources import find_sources
from oneclip.embed.store import Store
from oneclip.errors import ConfigError, OutputError

Embed = Callable[..., Outcome]  # the fixture `run`


def names(path: str = "vectors.npz") -> list[str]:
    return np.load(path)["names"].tolist()


def parquet_names(folder: str) -> list[str]:
    found = pytest.importorskip("pyarrow.parquet").read_table(folder)["name"].to_pylist()
    return sorted(found)


# --------------------------------------------------------------------------------------------- two, and another


def test_a_second_run_in_the_same_output_is_refused_and_disturbs_nothing(
    encoder: oneclip.Encoder, run: Embed, photos: Path
) -> None:
    for output in ("vectors.npz", "folder"):
        with Store(Path(output), Facts.of(encoder, "exact")) as first:
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
def test_what_another_making_made_is_refused_and_says_what_differs(
    run: Embed, photos: Path, output: str, tmp_path: Path
) -> None:
    run(photos, output=output)
    with pytest.raises(OutputError, match="decode exact, not fast"):
        run(photos, output=output, decode="fast")
    Path("captions.txt").write_text("a cat", encoding="utf-8")
    with pytest.raises(OutputError, match="kind pictures, not captions"):
        run("captions.txt", output=output, decode="text")
    other = oneclip.load(write_tiny_model(tmp_path / "other.safetensors", seed=3))
    with pytest.raises(OutputError, match="weights"), Store(Path(output), Facts.of(other, "exact")):
        pass


def test_the_weights_count_and_their_name_does_not(run: Embed, photos: Path, tmp_path: Path) -> None:
    one = oneclip.load(write_tiny_model(tmp_path / "a.safetensors", seed=3))
    two = oneclip.load(write_tiny_model(tmp_path / "b.safetensors", seed=3))
    assert Facts.of(one, "exact").identity == Facts.of(two, "exact").identity
    half = oneclip.load(tmp_path / "b.safetensors", precision="bf16")
    assert Facts.of(half, "exact").identity != Facts.of(two, "exact").identity


def test_a_folder_of_somebody_else_is_refused(run: Embed, photos: Path) -> None:
    with pytest.raises(OutputError, match="did not make"):
        run(photos, output="photos")
    assert len(list(photos.iterdir())) == 6


def test_a_folder_gathers_and_a_changed_picture_has_one_row(run: Embed, photos: Path) -> None:
    picture(7).save("more.jpg")
    run(photos, output="folder")
    run("more.jpg", output="folder")
    picture(8).save(photos / "0.jpg")
    outcome = run(photos, output="folder")
    assert (outcome.kept, outcome.encoded, outcome.rows) == (5, 1, 7)
    assert parquet_names("folder") == ["more.jpg", *(f"photos/{i}.jpg" for i in range(6))]


def test_a_folder_has_parts_of_one_format(encoder: oneclip.Encoder, run: Embed, photos: Path) -> None:
    run(photos, output="folder")
    facts = Facts.of(encoder, "exact")
    with pytest.raises(OutputError, match=r"another format \(part-000000\.parquet\)"):
        Store("folder", facts, folder_suffix=".npz").__enter__()
    with Store("folder", facts, folder_suffix=".npz", overwrite=True) as store:
        assert embed(encoder, find_sources(["photos"]), store).rows == 6
    assert [path.suffix for path in Path("folder").glob("part-*")] == [".npz"]


def test_a_file_holds_what_its_source_holds(run: Embed, photos: Path) -> None:
    run(photos)
    assert run("photos/3.jpg", "photos/1.jpg").kept == 2
    assert names() == ["photos/3.jpg", "photos/1.jpg"]


# ---------------------------------------------------------------------------------------------------- the cache


def test_a_cache_finds_content_under_any_name_and_for_one_making_only(
    encoder: oneclip.Encoder, run: Embed, photos: Path
) -> None:
    exact = Facts.of(encoder, "exact")
    with Cache(Path("cache"), exact) as cache:
        run(photos, cache=cache)
        photos.rename("renamed")
        outcome = run("renamed", output="b.npz", cache=cache)
    assert (outcome.encoded, outcome.repeated) == (0, 6)
    np.testing.assert_array_equal(np.load("vectors.npz")["vectors"], np.load("b.npz")["vectors"])
    with Cache(Path("cache"), Facts.of(encoder, "fast")) as other:
        digest = np.load("b.npz")["sha256"][0].decode()
        assert other.find(digest) is None
    with Cache(Path("cache"), exact) as cache:
        found = cache.find(digest)
        assert found is not None
        assert found.shape == (DIM,)


def test_a_damaged_cache_says_so(encoder: oneclip.Encoder, photos: Path) -> None:
    facts = Facts.of(encoder, "exact")
    with Cache(Path("cache"), facts) as cache:
        path = cache.path
    path.write_bytes(b"no data base" * 1000)
    with pytest.raises(OutputError, match="delete that file"):
        Cache(Path("cache"), facts)


def test_a_cache_that_fails_in_the_middle_ends_the_run_and_blames_no_picture(
    encoder: oneclip.Encoder, run: Embed, photos: Path
) -> None:
    cache = Cache(Path("cache"), Facts.of(encoder, "exact"))
    cache._base.close()
    with pytest.raises(OutputError, match="cannot be used") as caught:
        run(photos, cache=cache)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert not Path("vectors.npz.errors.csv").exists()


def test_a_decode_mode_that_is_none_is_refused(run: Embed, photos: Path) -> None:
    with pytest.raises(ConfigError, match="'exact' or 'fast'"):
        run(photos, decode="quick")
