"""What an index answers, refuses and repairs."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from images import write_image
from tiny import write_tiny_model

import oneclip
from oneclip.errors import ConfigError, DataError, ImageError, OutputError, QueryError, TextError
from oneclip.evaluate.pocket_heldout import load_pocket_heldout
from oneclip.search import Index, maintenance
from tests import programs


def names(results: object) -> list[str]:
    return [os.path.basename(hit.path) for hit in results]  # type: ignore[attr-defined]


@pytest.fixture
def full(index: Index, photos: Path) -> Index:
    """An index of six images."""
    index.update(photos)
    return index


def test_scores_are_the_cosines_of_the_encoder(full: Index, photos: Path, encoder: oneclip.Encoder) -> None:
    results = full.search("a red car", top_k=6)
    expected = encoder.similarity([hit.path for hit in results], "a red car")[:, 0]
    np.testing.assert_allclose([hit.score for hit in results], expected, atol=2e-6)
    assert [hit.score for hit in results] == sorted((hit.score for hit in results), reverse=True)
    assert results[0].width, results[0].height == (40, 36)


def test_an_image_finds_itself_by_path_bytes_and_like(full: Index, photos: Path) -> None:
    path = photos / "3.png"
    for results in (
        full.search(str(path), top_k=1),
        full.search(path, top_k=1),
        full.search(path.read_bytes(), top_k=1),
        full.search(like=str(path), top_k=1),
    ):
        assert names(results) == ["3.png"]
        assert results[0].score == pytest.approx(1, abs=1e-5)
        assert results[0].relevance is None


def test_several_queries_add_standardized_scores(full: Index, photos: Path, encoder: oneclip.Encoder) -> None:
    results = full.search("2:a beach", photos / "1.png", exclude="people", top_k=6)
    found = {hit.path: hit.score for hit in results}
    images = encoder.encode_images(list(found))
    scores = np.zeros(6)
    for weight, query in (
        (2, encoder.encode_texts("a beach")),
        (1, encoder.encode_images(photos / "1.png")),
        (-1, encoder.encode_texts("people")),
    ):
        cosines = (images @ query[0]).astype(np.float64)
        scores += weight * (cosines - cosines.mean()) / cosines.std()
    np.testing.assert_allclose(list(found.values()), scores, atol=1e-3)


def test_filters_folders_and_copies(full: Index, photos: Path) -> None:
    (photos / "sub").mkdir()
    write_image(photos / "sub" / "copy.png", 2)
    full.update()
    assert names(full.search("x", where="name = 2.png")) == ["2.png"]
    assert names(full.search("x", under=photos / "sub")) == ["copy.png"]
    assert len(full.search("x", under=photos)) == 7
    assert len(full.search("x", where="width > 1000")) == 0
    results = full.search("x", distinct=True, where="name != 5.png")  # which happens to look like 1.png
    assert (len(results), results.repeated) == (5, 1)


def test_a_low_relevance_is_hidden_and_counted(full: Index) -> None:
    everything = full.search("x", top_k=6)
    limit = sorted(hit.relevance or 0 for hit in everything)[3]
    results = full.search("x", top_k=6, min_relevance=limit)
    assert (len(results), results.hidden) == (3, 3)
    with pytest.raises(ConfigError, match="no relevance"):
        full.search(like=everything[0].path, min_relevance=0.5)


def test_results_can_be_ordered_by_date(full: Index, photos: Path) -> None:
    full.catalogue.rows("UPDATE contents SET taken_at = '2020-0' || id || '-01' WHERE id > 2")
    dates = [hit.taken_at for hit in full.search("x", top_k=6, sort="date")]
    assert dates == [*sorted(filter(None, dates), reverse=True), None, None]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((), {}, ConfigError, "needs words or an image"),
        (("  ",), {}, TextError, "an empty query"),
        (("a cat " * 60,), {}, TextError, "more than the 77 tokens"),
        (("0:x",), {}, ConfigError, "is 0"),
        (("2:",), {}, TextError, "an empty query"),
        (("9" * 400 + ":x",), {}, ConfigError, "at most 1000"),
        (("x",), {"top_k": 1.5}, ConfigError, "whole number"),
        (("x",), {"top_k": float("inf")}, ConfigError, "whole number"),
        (("x",), {"min_relevance": "0.5"}, ConfigError, "between 0 and 1"),
        (("x",), {"where": 3}, ConfigError, "expected a filter"),
        (("x",), {"under": 3}, ConfigError, "not the path of a folder"),
        (("x",), {"like": "missing.jpg"}, ImageError, "missing.jpg"),
        (("x",), {"where": "widht > 3"}, QueryError, "width"),
        (("x",), {"top_k": 0}, ConfigError, "at least 1"),
        (("x",), {"min_relevance": 2.0}, ConfigError, "between 0 and 1"),
        (("x",), {"sort": "size"}, ConfigError, "'date'"),
    ],
)
def test_bad_searches_get_one_clear_error(
    full: Index, arguments: tuple[str], options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        full.search(*arguments, **options)


def test_an_index_without_images_says_what_to_do(index: Index) -> None:
    with pytest.raises(DataError, match="has no images; add a folder"):
        index.search("x")


def test_another_model_of_the_same_width_is_refused_with_the_command_that_rebuilds(
    full: Index, photos: Path, tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(ConfigError, match=f"oneclip index {photos} --index .* --model .* --rebuild"):
        Index(full.path, model=str(other)).search("x")


def test_the_same_weights_under_another_name_are_accepted(full: Index, tmp_path: Path) -> None:
    again = write_tiny_model(tmp_path / "again.safetensors")
    assert len(Index(full.path, model=str(again)).search("x")) == 6


@pytest.fixture
def named(tmp_path: Path, photos: Path) -> Path:
    """The folder of an index that loads its model from a file by name."""
    (tmp_path / "weights").mkdir()
    model = write_tiny_model(tmp_path / "weights" / "tiny.safetensors")
    with Index(tmp_path / "named.index", model=str(model)) as index:
        index.update(photos)
    return tmp_path / "named.index"


def test_weights_are_hashed_again_only_if_their_file_has_changed(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    digest = oneclip.Encoder.weights_digest
    monkeypatch.setattr(oneclip.Encoder, "weights_digest", lambda model: hashed.append(1) or digest(model))
    assert len(Index(named).search("x")) == 6
    assert not hashed
    os.utime(tmp_path / "weights" / "tiny.safetensors")
    for _ in range(2):
        assert len(Index(named).search("x")) == 6
    assert len(hashed) == 1


@pytest.mark.parametrize("in_place", [False, True])
def test_replaced_weights_of_the_same_size_and_time_are_refused(
    named: Path, tmp_path: Path, in_place: bool
) -> None:
    file = tmp_path / "weights" / "tiny.safetensors"
    other = write_tiny_model(tmp_path / "other.safetensors", seed=1)
    before = file.stat()
    assert other.stat().st_size == before.st_size
    if in_place:
        file.write_bytes(other.read_bytes())
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(file)
    for _ in range(2):
        with pytest.raises(ConfigError, match="with other settings"):
            Index(named).search("x")


def test_a_given_encoder_is_always_hashed(named: Path, tmp_path: Path) -> None:
    encoder = oneclip.load(tmp_path / "weights" / "tiny.safetensors")
    with torch.no_grad():
        next(encoder.model.parameters()).add_(1)
    with pytest.raises(ConfigError, match="with other settings"):
        Index(named, model=encoder).search("x")


def test_an_index_loads_its_own_model(full: Index, tmp_path: Path, model_file: Path, photos: Path) -> None:
    with Index(tmp_path / "own.index", model=str(model_file)) as index:
        index.update(photos)
    assert names(Index(tmp_path / "own.index").search("x")) == names(full.search("x"))


def test_a_newer_index_a_damaged_one_and_a_folder_of_other_files_are_refused(
    full: Index, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"is not an index: it contains 0\.png"):
        Index(photos)
    with pytest.raises(DataError, match="is not an index"):
        Index(photos, create=False)
    full.close()
    connection = sqlite3.connect(full.path / "catalogue.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DataError, match="written by a newer oneclip"):
        Index(full.path)
    (full.path / "catalogue.sqlite").write_bytes(b"SQLite format 3\0" + b"\7" * 5000)
    with pytest.raises(DataError, match=r"damaged.*delete the folder"):
        Index(full.path)


@pytest.mark.parametrize("harm", ["cut", "changed", "missing"])
def test_a_damaged_segment_is_named_and_verify_lets_it_be_computed_again(full: Index, harm: str) -> None:
    before = names(full.search("x"))
    (segment,) = full.segments.iterdir()
    content = segment.read_bytes()
    segment.unlink()
    if harm == "cut":
        segment.write_bytes(content[:-10])
    elif harm == "changed":
        segment.write_bytes(content[:-10] + bytes(byte ^ 255 for byte in content[-10:]))
    index = Index(full.path, model=full.encoder)
    if harm != "changed":
        with pytest.raises(DataError, match="oneclip index verify"):
            index.search("x")
    assert len(index.verify(content=False).damaged) == 1
    assert str(index.update()) == "6 unchanged"
    assert names(index.search("x")) == before


def test_verify_finds_an_image_replaced_by_another_of_the_same_size_and_time(
    full: Index, photos: Path
) -> None:
    status = (photos / "0.png").stat()
    content = bytearray((photos / "1.png").read_bytes())
    write_image(photos / "0.png", 1)
    with (photos / "0.png").open("ab") as file:
        file.write(b"\0" * (status.st_size - len(content)))
    if (photos / "0.png").stat().st_size != status.st_size:
        content = bytearray((photos / "0.png").read_bytes()[: status.st_size])
        (photos / "0.png").write_bytes(content)
    os.utime(photos / "0.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert str(full.update()) == "6 unchanged"
    (photos / "5.png").unlink()
    result = full.verify()
    assert (result.checked, result.changed, result.missing) == (
        5,
        [str(photos / "0.png")],
        [str(photos / "5.png")],
    )
    assert full.update().changed + full.update().failed == 1


def test_compaction_keeps_every_live_embedding(
    full: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        write_image(photos / f"more{i}.png", 20 + i)
        full.update()
    reader = full.snapshot()
    (photos / "0.png").unlink()
    full.update()
    before = [(hit.path, pytest.approx(hit.score, abs=2e-6)) for hit in full.search("x")]
    assert full.status().segments == 4
    assert full.compact() == 1
    assert (full.status().segments, full.status().dead_rows) == (1, 0)
    assert [(hit.path, hit.score) for hit in full.search("x")] == before
    assert (
        len(reader.scan.rescore(full.encoder.encode_texts("x"))[0]) == 9
    )  # a reader keeps what it began with
    assert full.compact() == 0


def test_many_small_segments_are_merged(full: Index, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "MANY_SEGMENTS", 2)
    for i in range(3):
        write_image(photos / f"more{i}.png", 20 + i)
        full.update()
    assert full.status().segments <= 2
    assert len(full.search("x")) == 9


def test_a_reader_that_meets_a_compaction_reads_again(
    full: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oneclip.search import snapshot

    write_image(photos / "new.png", 7)
    full.update()
    reader, opened = Index(full.path, model=full.encoder), []
    open_segment = snapshot.Segment.open

    def open_after_compaction(path: Path) -> object:
        if not opened:
            opened.append(path)
            full.compact()
        return open_segment(path)

    monkeypatch.setattr(snapshot.Segment, "open", open_after_compaction)
    assert len(reader.search("x")) == 7


@pytest.mark.skipif(os.name == "nt", reason="changes the user of a process")
def test_an_index_on_a_read_only_medium_can_be_searched(full: Index) -> None:
    full.close()
    program = """
import os, sys
from oneclip.search import Index
from oneclip.errors import OutputError
path = sys.argv[1]
for folder, _, files in os.walk(path):
    for name in files:
        os.chmod(os.path.join(folder, name), 0o444)
    os.chmod(folder, 0o555)
if os.geteuid() == 0:
    os.chmod(os.path.dirname(path), 0o755)
    os.setuid(65534)
index = Index(path)
print(len(index.entries()), len(index.snapshot().contents))
try:
    index.update()
except OutputError as error:
    print(error)
"""
    parent = full.path
    while parent != parent.parent:  # pytest's own folders are private
        parent = parent.parent
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o005:
            parent.chmod(parent.stat().st_mode | 0o055)
    done = programs.run(["-c", program, full.path])
    assert done.stdout.splitlines()[0] == "6 6", done.stderr
    assert "read-only" in done.stdout


def test_recall_through_the_index_equals_that_of_evaluate(tmp_path: Path) -> None:
    pocket = oneclip.load("pocket")
    task = load_pocket_heldout().tasks[0]
    folder = tmp_path / "drawings"
    folder.mkdir()
    for i, image in enumerate(task.images):
        image.save(folder / f"{i:03}.png")
    index = Index(tmp_path / "index", model=pocket)
    index.update(folder)
    from oneclip.evaluate.feature_extractor import EncoderAdapter

    expected = task(EncoderAdapter(pocket))
    snapshot = index.snapshot()
    at = {1: 0, 5: 0}
    row_of = {int(os.path.basename(e.path)[:3]): e.content for e in index.entries()}
    content_row = {int(c): row for row, c in enumerate(snapshot.contents)}
    texts = pocket.encode_texts(task.texts)
    wanted: dict[int, set[int]] = {}
    for image, text in task.pairs:
        wanted.setdefault(text, set()).add(content_row[row_of[image]])
    for text, rows in wanted.items():
        found = snapshot.scan.top(texts[text : text + 1], 5).rows.tolist()
        for k in at:
            at[k] += bool(rows & set(found[:k]))
    for k in at:
        assert at[k] / len(wanted) == pytest.approx(expected[f"image_retrieval_recall@{k}"], abs=1e-9)


def test_a_closed_index_says_so_and_not_that_it_is_damaged(full: Index) -> None:
    full.close()
    for use in (full.status, full.entries, full.verify, lambda: full.search("x")):
        with pytest.raises(ConfigError, match=r"is closed; open it again"):
            use()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_a_forked_process_writes_outlives_its_parent(full: Index) -> None:
    go, wait = os.pipe()[::-1]
    child = os.fork()
    if not child:
        with suppress(BaseException):
            assert full.status().files == 6
            os.read(wait, 1)  # until the parent has closed its connection, and with it the log of SQLite
            with full.catalogue.transaction():
                full.catalogue.write("UPDATE files SET size = ?", [(1,)])
        os._exit(0)
    full.close()
    os.write(go, b"x")
    os.waitpid(child, 0)
    assert {entry.size for entry in Index(full.path, create=False).entries()} == {1}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: Index(path, model=3), ConfigError, "expected the name of a model"),  # type: ignore[arg-type]
        (lambda path: Index(""), ConfigError, "path of the index is empty"),
        (lambda path: Index("a\0b"), OutputError, "null byte"),
    ],
)
def test_bad_arguments_of_an_index_are_named(
    tmp_path: Path, make: Callable[[Path], Index], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(tmp_path / "new.index")


def test_a_model_may_be_given_as_a_path(tmp_path: Path, model_file: Path, photos: Path) -> None:
    with Index(tmp_path / "path.index", model=model_file) as index:
        assert index.update(photos).added == 6


def test_an_index_whose_creation_was_interrupted_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "half.index").mkdir()
    (tmp_path / "half.index" / "catalogue.sqlite").touch()
    with pytest.raises(DataError, match="was interrupted; run it again"):
        Index(tmp_path / "half.index", create=False)
    assert Index(tmp_path / "half.index").status().files == 0


def test_the_home_folder_is_found_in_queries(
    full: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    monkeypatch.setenv("USERPROFILE", str(photos.parent))
    assert names(full.search("2:~/photos/3.png"))[0] == "3.png"
    assert names(full.search(like="~/photos/4.png"))[0] == "4.png"
    assert len(full.search("x", under="~/photos")) == 6
