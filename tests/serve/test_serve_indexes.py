"""Indexes of a server: which model, when they are ready, and what happens to their updates."""

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import write_tiny_model

import oneclip
from oneclip.errors import ConfigError, DataError
from oneclip.search import Index
from oneclip.search.query import Query
from oneclip.serve.embedder import Embedder
from oneclip.serve.errors import NotReadyError, RequestError
from oneclip.serve.index_search import SearchPage
from oneclip.serve.indexes import ServedIndexes, indexed_model
from oneclip.serve.served_index import ServedIndex
from oneclip.serve.settings import ServeSettings

LONG = 120.0  # seconds; a wait ends much earlier


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all indexes."""
    monkeypatch.setenv("ONECLIP_INDEXES", str(tmp_path / "indexes"))
    return tmp_path / "indexes"


@pytest.fixture
def photos(tmp_path: Path, images: dict[str, bytes]) -> Path:
    """A folder with three images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("cat", "car", "sun"):
        (folder / f"{name}.png").write_bytes(images[name])
    return folder


@pytest.fixture(scope="module")
def embedder(encoder: oneclip.Encoder) -> Iterator[Embedder]:
    embedder = Embedder(encoder, ServeSettings())
    yield embedder
    embedder.close()


@pytest.fixture
def open_indexes(embedder: Embedder) -> Iterator[Callable[..., ServedIndexes]]:
    """Function that opens indexes; they are closed at the end."""
    opened: list[ServedIndexes] = []

    def open_them(*locations: Path) -> ServedIndexes:
        opened.append(ServedIndexes(ServeSettings(index=tuple(map(str, locations))), embedder))
        return opened[-1]

    yield open_them
    for indexes in opened:
        indexes.close()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def found(index: ServedIndex) -> set[str]:
    return {Path(entry.path).stem for entry in index.search.selection().entries()}


def test_a_new_index_is_ready_once_its_images_are_in_it(
    open_indexes: Callable[..., ServedIndexes], photos: Path, home: Path
) -> None:
    indexes = open_indexes(photos)
    assert not indexes.is_ready
    with pytest.raises(NotReadyError, match="is being made"):
        _ = indexes.find().search
    indexes.start()
    wait_for(lambda: indexes.is_ready)
    assert found(indexes.find()) == {"cat", "car", "sun"}
    assert [path.name[:7] for path in home.iterdir()] == ["photos-"]  # where `oneclip search` finds it


@pytest.mark.parametrize("words", [["a cat"], []])
def test_an_index_whose_first_images_are_being_encoded_has_no_results(
    open_indexes: Callable[..., ServedIndexes], photos: Path, words: list[str]
) -> None:
    index = open_indexes(photos).find()
    index.index.record_model()
    vectors = index.index.encoder.encode_texts(words)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = index.search.search(
            [Query(text, is_text=True) for text in words], vectors, SearchPage(offset=0)
        )
    assert (answer["results"], answer["total"]) == ([], 0)


def test_an_index_that_exists_is_ready_at_once_and_updated(
    open_indexes: Callable[..., ServedIndexes],
    photos: Path,
    images: dict[str, bytes],
    encoder: oneclip.Encoder,
) -> None:
    with Index.for_root(photos, model=encoder) as index:
        index.update(photos)
    (photos / "tree.png").write_bytes(images["tree"])
    indexes = open_indexes(photos)
    assert indexes.is_ready
    assert found(indexes.find()) == {"cat", "car", "sun"}
    indexes.start()
    wait_for(lambda: "tree" in found(indexes.find()))


def test_new_files_are_found_while_the_server_runs(
    open_indexes: Callable[..., ServedIndexes],
    photos: Path,
    images: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("oneclip.serve.indexes.watch_pause", lambda seconds: 0.01)
    indexes = open_indexes(photos)
    indexes.start()
    wait_for(lambda: indexes.is_ready)
    (photos / "tree.png").write_bytes(images["tree"])
    (photos / "car.png").unlink()
    wait_for(lambda: found(indexes.find()) == {"cat", "sun", "tree"})


def test_a_folder_of_an_index_is_all_that_is_searched(
    open_indexes: Callable[..., ServedIndexes],
    photos: Path,
    images: dict[str, bytes],
    encoder: oneclip.Encoder,
) -> None:
    (photos / "trees").mkdir()
    (photos / "trees" / "tree.png").write_bytes(images["tree"])
    with Index.for_root(photos, model=encoder) as index:
        index.update(photos)
    index = open_indexes(photos / "trees").find()
    assert (index.name, found(index)) == ("trees", {"tree"})


def test_an_index_of_another_model_is_refused(
    open_indexes: Callable[..., ServedIndexes], photos: Path, tmp_path: Path
) -> None:
    other = oneclip.load(write_tiny_model(tmp_path / "tiny.safetensors"))
    with Index.for_root(photos, model=other) as index:
        index.update(photos)
    with pytest.raises(ConfigError, match=r"was made by .* with other settings .*--rebuild"):
        open_indexes(photos)


def test_the_model_of_a_server_is_that_of_its_first_index(photos: Path, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.safetensors")
    settings = ServeSettings(index=(str(photos),))
    assert indexed_model(settings) is None
    with Index.for_root(photos, model=path) as index:
        index.update(photos)
    assert indexed_model(settings) == (str(path), "fp32")


@pytest.mark.parametrize("name", ["nowhere", "empty", "a.png"])
def test_what_is_no_index_and_no_folder_of_images_is_refused(
    open_indexes: Callable[..., ServedIndexes], tmp_path: Path, name: str, images: dict[str, bytes]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(images["sun"])
    with pytest.raises(DataError, match=name):
        open_indexes(tmp_path / name)
    assert not (tmp_path / "indexes").exists()


def test_names_are_those_of_the_folders_and_unique(
    open_indexes: Callable[..., ServedIndexes], photos: Path, tmp_path: Path, images: dict[str, bytes]
) -> None:
    others = [tmp_path / "other" / "photos", tmp_path / "Urlaub in Köln"]
    for folder in others:
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(images["sun"])
    indexes = open_indexes(photos, *others, photos)
    assert [index.name for index in indexes] == ["photos", "photos-2", "Urlaub-in-K-ln"]
    assert indexes.find("photos-2").place.root == str(others[0])
    with pytest.raises(RequestError, match="no index 'x'; there is photos, photos-2"):
        indexes.find("x")


def test_a_folder_that_is_unmounted_is_a_problem_and_searched_all_the_same(
    open_indexes: Callable[..., ServedIndexes], photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = open_indexes(photos).find()
    index.update(threading.Event())
    photos.rename(photos.with_name("unmounted"))
    index.update(threading.Event())
    assert str(photos) in (index.describe()["update"]["problem"] or "")
    assert index.describe()["roots"] == [{"path": str(photos), "is_reachable": False}]
    assert found(index) == found(open_indexes(photos).find()) == {"cat", "car", "sun"}
    assert caplog.text.count("is not up to date") == 1
    photos.with_name("unmounted").rename(photos)
    index.update(threading.Event())
    assert index.state.problem is None


def test_another_process_that_updates_is_a_problem_until_it_ends(
    open_indexes: Callable[..., ServedIndexes], photos: Path, encoder: oneclip.Encoder
) -> None:
    index = open_indexes(photos).find()
    with Index(index.place.path, model=encoder) as other:
        with other.writing():
            index.update(threading.Event())
            assert "another process" in (index.state.problem or "")
            assert not index.is_ready
        other.update(photos)
    assert index.is_ready


def test_a_limit_of_pixels_for_requests_is_none_for_indexes(photos: Path) -> None:
    settings = ServeSettings(index=(str(photos),), max_pixels=100)
    embedder = Embedder(oneclip.load("pocket", max_pixels=100), settings)
    indexes = ServedIndexes(settings, embedder)
    indexes.find().update(threading.Event())
    assert found(indexes.find()) == {"cat", "car", "sun"}
    assert embedder.encoder.max_pixels == 100
    indexes.close()
    embedder.close()


def test_an_update_stops_with_the_server_and_keeps_what_is_done(
    open_indexes: Callable[..., ServedIndexes],
    photos: Path,
    images: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("oneclip.embed.throughput.INTERVAL", 0.0)
    for i in range(40):  # more than a batch; the ends differ, the images do not
        (photos / f"{i}.png").write_bytes(images["tree"] + bytes([i]))
    index = open_indexes(photos).find()

    class Stop(threading.Event):
        def is_set(self) -> bool:
            return index.state.done > 36

    index.update(Stop())
    assert (index.state.is_updating, index.state.problem, index.is_ready) == (False, None, False)
    assert 0 < len(found(index)) < 43
    index.update(threading.Event())
    assert len(found(index)) == 43
