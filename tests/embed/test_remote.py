"""Remote outputs and sources: they behave like local folders, except for locks and renaming."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny import picture

import oneclip
from oneclip.embed.outputs import check_output, parse_output
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.embed.run import EmbedOutcome, embed
from oneclip.embed.sources import find_sources
from oneclip.embed.store import EmbeddingStore
from oneclip.errors import ConfigError, DownloadError, OfflineError, OutputError

Embed = Callable[..., EmbedOutcome]  # the fixture `run`
OUT = "memory://bucket/vectors"


@pytest.fixture
def memory() -> Iterator[object]:
    """fsspec's store in memory, empty before and after."""
    from fsspec.implementations.memory import MemoryFileSystem

    def clear() -> None:
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]

    clear()
    yield MemoryFileSystem()
    clear()


def listed(memory: object) -> list[str]:
    return sorted(path.rpartition("/")[2] for path in memory.find("/bucket/vectors"))  # type: ignore[attr-defined]


def rows(memory: object) -> dict[str, list[float]]:
    """Names and vectors in all Parquet parts; no name is there twice."""
    parquet = pytest.importorskip("pyarrow.parquet")
    found: dict[str, list[float]] = {}
    for path in memory.glob("/bucket/vectors/part-*.parquet"):  # type: ignore[attr-defined]
        table = parquet.read_table(io.BytesIO(memory.cat_file(path)))  # type: ignore[attr-defined]
        for name, vector in zip(table["name"].to_pylist(), table["vector"].to_pylist(), strict=True):
            assert name not in found
            found[name] = vector
    return found


def test_a_remote_folder_has_the_content_of_a_local_one(
    encoder: oneclip.Encoder, run: Embed, photos: Path, memory: object
) -> None:
    (photos / "5.jpg").write_bytes(b"broken")
    outcome = run(photos, output=OUT + "/")
    assert (outcome.encoded, outcome.failed, outcome.rows) == (5, 1, 5)
    assert outcome.errors == f"{OUT}/_errors.csv"
    assert listed(memory) == ["_errors.csv", "_made_by.json", "part-000000.parquet"]
    table = memory.cat_file("/bucket/vectors/_errors.csv").decode()  # type: ignore[attr-defined]
    assert [row[0] for row in csv.reader(table.splitlines())] == ["name", "photos/5.jpg"]
    made_by = json.loads(memory.cat_file("/bucket/vectors/_made_by.json"))  # type: ignore[attr-defined]
    assert EmbeddingMetadata.from_dict(made_by) == EmbeddingMetadata.for_encoder(encoder, "exact")
    paths = [f"photos/{i}.jpg" for i in range(5)]
    np.testing.assert_allclose([rows(memory)[p] for p in paths], encoder.encode_images(paths), atol=1e-5)


def test_a_remote_run_resumes_adds_and_replaces_rows(run: Embed, photos: Path, memory: object) -> None:
    run("photos/0.jpg", "photos/1.jpg", output=OUT)
    before = rows(memory)
    picture(9).save(photos / "1.jpg")
    (photos / "5.jpg").write_bytes(b"broken")
    outcome = run(photos, output=OUT)
    assert (outcome.kept, outcome.encoded, outcome.rows) == (1, 4, 5)
    after = rows(memory)
    assert after["photos/0.jpg"] == before["photos/0.jpg"]
    assert after["photos/1.jpg"] != before["photos/1.jpg"]
    picture(5).save(photos / "5.jpg")
    assert run(photos, output=OUT).kept == 5
    assert "_errors.csv" not in listed(memory)
    assert len(rows(memory)) == 6


def test_parts_may_be_npz(encoder: oneclip.Encoder, photos: Path, memory: object) -> None:
    for kept in (0, 6):
        with EmbeddingStore(
            OUT, EmbeddingMetadata.for_encoder(encoder, "exact"), folder_suffix=".npz"
        ) as store:
            assert embed(encoder, find_sources(["photos"]), store).kept == kept
    content = np.load(io.BytesIO(memory.cat_file("/bucket/vectors/part-000000.npz")))  # type: ignore[attr-defined]
    assert len(content["names"]) == 6


def test_a_store_that_fails_in_the_middle_keeps_every_part(
    run: Embed, photos: Path, memory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.embed.store.PART_ROWS", 2)
    pipe = type(memory).pipe_file  # type: ignore[attr-defined]

    def until_full(self: object, path: str, content: bytes, **options: object) -> None:
        if "part-000002" in path:
            raise RuntimeError("quota exceeded")  # no OSError, as some packages raise
        pipe(self, path, content, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "pipe_file", until_full)
        with pytest.raises(OutputError, match=r"part-000002\.parquet could not be written: quota exceeded"):
            run(photos, output=OUT)
    assert len(rows(memory)) == 4
    outcome = run(photos, output=OUT)
    assert (outcome.kept, outcome.encoded, outcome.rows) == (4, 2, 6)


def test_a_damaged_part_is_renamed_but_not_one_that_cannot_be_fetched(
    encoder: oneclip.Encoder, run: Embed, photos: Path, memory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos, output=OUT)
    part = "/bucket/vectors/part-000000.parquet"

    def broken(self: object, size: int = -1) -> bytes:
        raise RuntimeError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr("fsspec.implementations.memory.MemoryFile.read", broken, raising=False)
        with pytest.raises(OutputError, match="could not be read: connection reset"):
            run(photos, output=OUT)
    assert run(photos, output=OUT).kept == 6
    memory.pipe_file(part, memory.cat_file(part)[:100])  # type: ignore[attr-defined]
    with EmbeddingStore(OUT, EmbeddingMetadata.for_encoder(encoder, "exact")) as store:
        assert store.damaged == [f"{OUT}/_damaged-part-000000.parquet"]
        assert embed(encoder, find_sources(["photos"]), store).encoded == 6
    assert len(rows(memory)) == 6


def test_ctrl_c_keeps_what_was_done(
    run: Embed, photos: Path, memory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oneclip.engine import InferenceModel

    image, batches = InferenceModel.encode_pixels, []

    def interrupted(self: InferenceModel, pixels: object) -> object:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(pixels)
        return image(self, pixels)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(InferenceModel, "encode_pixels", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(photos, output=OUT)
    assert len(rows(memory)) == 4
    assert run(photos, output=OUT).kept == 4


def test_another_model_is_refused_and_overwrite_replaces_the_output(
    encoder: oneclip.Encoder, run: Embed, photos: Path, memory: object
) -> None:
    run(photos, output=OUT)
    with pytest.raises(OutputError, match="decode exact, not fast"):
        run(photos, output=OUT, decode="fast")
    with EmbeddingStore(OUT, EmbeddingMetadata.for_encoder(encoder, "fast"), overwrite=True) as store:
        assert embed(encoder, find_sources(["photos/1.jpg"]), store, decode="fast").rows == 1
    assert list(rows(memory)) == ["photos/1.jpg"]


def test_an_output_that_cannot_be_written_is_reported_before_the_work(
    memory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_output(OUT, ".parquet")
    assert listed(memory) == []
    for name in ("vectors.npz", "vectors.parquet", "vectors.lance"):
        with pytest.raises(ConfigError, match="a folder, such as memory://bucket/vectors"):
            check_output(f"memory://bucket/{name}", ".parquet")
    memory.pipe_file("/photos/0.jpg", b"x")  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=r"was not written by `oneclip embed`: it contains 0\.jpg"):
        check_output("memory://photos", ".parquet")

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError("access denied")

    monkeypatch.setattr(type(memory), "pipe_file", refuse)
    with pytest.raises(OutputError, match="access denied"):
        check_output(OUT, ".parquet")
    with pytest.raises(ConfigError, match="as a string"):
        check_output(Path(OUT), ".parquet")
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    with pytest.raises(OfflineError):
        check_output("s3://bucket/vectors", ".parquet")


def test_a_file_address_is_a_local_path(
    encoder: oneclip.Encoder, run: Embed, photos: Path, tmp_path: Path
) -> None:
    assert parse_output(f"file://{tmp_path}/vectors.npz") == tmp_path / "vectors.npz"
    for name in ("vectors", "vectors.npz"):
        output = f"file://{tmp_path}/{name}"
        assert run(photos, output=output).encoded == 6
        assert run(photos, output=output).kept == 6
        with (
            EmbeddingStore(output, EmbeddingMetadata.for_encoder(encoder, "exact")),
            pytest.raises(OutputError, match="another"),
        ):
            EmbeddingStore(tmp_path / name, EmbeddingMetadata.for_encoder(encoder, "exact")).__enter__()


# ------------------------------------------------------------------------------------------------------ sources


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_sources_may_be_remote(photos: Path, memory: object, tmp_path: Path, scheme: str) -> None:
    root = f"memory:/{tmp_path}" if scheme == "memory" else f"file://{tmp_path}"
    (photos / "deep").mkdir()
    picture(7).save(photos / "deep" / "7.png")
    (photos / ".hidden.jpg").write_bytes(b"")
    Path("photos/list.txt").write_text("0.jpg\ndeep/7.png\n", encoding="utf-8")
    Path("photos/table.csv").write_text("path\n1.jpg\n", encoding="utf-8")
    if scheme == "memory":
        memory.put("photos", f"{tmp_path}/photos", recursive=True)  # type: ignore[attr-defined]

    def names(word: str) -> list[str]:
        items = [item for source in find_sources([f"{root}/photos{word}"]) for item in source]
        for item in items:
            assert len(item.read())  # type: ignore[union-attr]
        return [item.name.partition("photos/")[2] for item in items]

    everything = [*(f"{i}.jpg" for i in range(6)), "deep/7.png"]
    assert names("") == names("/") == everything
    assert names("/[2-4].jpg") == ["2.jpg", "3.jpg", "4.jpg"]
    assert names("/**/*.png") == names("/deep") == ["deep/7.png"]
    assert names("/list.txt") == ["0.jpg", "deep/7.png"]
    assert names("/table.csv") == ["1.jpg"]


def test_errors_of_a_store_become_our_errors(
    photos: Path, memory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("no credentials")

    for name in ("cat_file", "find", "glob", "isdir", "_open"):
        monkeypatch.setattr(type(memory), name, refuse)
    for word in ("memory://b/0.jpg", "memory://b", "memory://b/*.jpg", "memory://b/list.txt"):
        with pytest.raises(DownloadError, match="no credentials"):
            [item.read() for source in find_sources([word]) for item in source]  # type: ignore[union-attr]


def test_an_empty_remote_folder_is_a_failure(memory: object) -> None:
    memory.pipe_file("/b/notes.doc", b"x")  # type: ignore[attr-defined]
    (failure,) = (item for source in find_sources(["memory://b"]) for item in source)
    assert "a folder without images" in str(failure)
