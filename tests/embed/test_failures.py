"""Broken images, full disks and failing models: failures are reported, the rest is written."""

import csv
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import picture

import oneclip
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.embed.run import EmbedOutcome, embed
from oneclip.embed.sources import find_sources
from oneclip.embed.store import EmbeddingStore
from oneclip.engine import InferenceModel
from oneclip.engine.plan import Plan
from oneclip.errors import CheckpointError, OutputError

Embed = Callable[..., EmbedOutcome]  # the fixture `run`


def reasons(path: str = "vectors.npz.errors.csv") -> dict[str, str]:
    """The error table."""
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "reason"]
    return dict(rows)  # type: ignore[arg-type]


def names(path: str = "vectors.npz") -> list[str]:
    return np.load(path)["names"].tolist()


def parquet_names(folder: str) -> list[str]:
    found = pytest.importorskip("pyarrow.parquet").read_table(folder)["name"].to_pylist()
    return sorted(found)


# ------------------------------------------------------------------------------------------------- the pictures


def test_broken_images_are_listed_and_the_others_written(run: Embed, photos: Path) -> None:
    (photos / "0.jpg").write_bytes((photos / "0.jpg").read_bytes()[:-200])
    (photos / "3.jpg").write_bytes(b"")
    outcome = run(photos)
    assert (outcome.encoded, outcome.failed, outcome.rows) == (4, 2, 4)
    assert "truncated or damaged" in reasons()["photos/0.jpg"]
    assert "empty (0 bytes)" in reasons()["photos/3.jpg"]
    assert names() == [f"photos/{i}.jpg" for i in (1, 2, 4, 5)]


def test_an_image_that_vanishes_after_listing_keeps_its_embedding(
    encoder: oneclip.Encoder, run: Embed, photos: Path
) -> None:
    run(photos / "2.jpg")
    sources = find_sources(["photos"])
    (photos / "1.jpg").unlink()
    (photos / "2.jpg").unlink()
    with EmbeddingStore(Path("vectors.npz"), EmbeddingMetadata.for_encoder(encoder, "exact")) as store:
        outcome = embed(encoder, sources, store)
    assert reasons() == {f"photos/{i}.jpg": f"photos/{i}.jpg: no such file" for i in (1, 2)}
    assert names() == [f"photos/{i}.jpg" for i in (0, 2, 3, 4, 5)]
    assert (outcome.encoded, outcome.rows) == (4, 5)


def test_an_image_that_becomes_unreadable_loses_its_embedding(run: Embed, photos: Path) -> None:
    run(photos)
    run(photos, output="folder")
    (photos / "1.jpg").write_bytes(b"broken")
    for output, found in (("vectors.npz", names), ("folder", parquet_names)):
        run(photos, output=output)
        assert found(output) == [f"photos/{i}.jpg" for i in (0, 2, 3, 4, 5)]


@pytest.mark.parametrize("size", [(30_000, 2), (2, 30_000)])
def test_a_long_thin_image_is_encoded_or_listed(
    run: Embed, photos: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(1, size).save(photos / "thin.png")
    assert run(photos).rows == 7
    monkeypatch.setenv("ONECLIP_MAX_PIXELS", "100000")  # the published resize would make 480,000 x 32 of it
    assert run(photos, output="small.npz").rows == 6
    assert "Crop the image first" in reasons("small.npz.errors.csv")["photos/thin.png"]
    assert run(photos, output="fast.npz", decode="fast").rows == 7


def test_a_repeated_path_counts_once_and_equal_images_are_encoded_once(
    run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "copy.jpg").write_bytes((photos / "0.jpg").read_bytes())
    Path("list.txt").write_text("photos/0.jpg\n./photos//0.jpg\nphotos/../photos/1.jpg\n", encoding="utf-8")
    outcome = run(photos, photos, "photos/0.jpg", "list.txt")
    assert (outcome.encoded, outcome.repeated, outcome.rows) == (6, 1, 7)
    assert len(names()) == len(set(names())) == 7
    vectors = np.load("vectors.npz")["vectors"]
    np.testing.assert_array_equal(vectors[names().index("photos/copy.jpg")], vectors[0])


@pytest.mark.parametrize("output", ["vectors.npz", "folder"])
def test_an_item_that_raises_is_listed_and_the_others_are_written(
    run: Embed, photos: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONECLIP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    bad = ["http://[::1/b.jpg", "photos/a\0b.jpg", "http://127.0.0.1:port/x.jpg"]
    Path("list.txt").write_text("\n".join([*bad, "photos/0.jpg", "photos/1.jpg"]), encoding="utf-8")
    errors = "folder/_errors.csv" if output == "folder" else "vectors.npz.errors.csv"
    for kept in (0, 2):
        outcome = run("list.txt", output=output)
        assert (outcome.kept, outcome.failed, outcome.rows) == (kept, 3, 2)
        assert list(reasons(errors)) == bad
    assert "not a path: embedded null byte" in reasons(errors)["photos/a\0b.jpg"]


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), MemoryError(), RecursionError("too deep")])
def test_any_error_while_decoding_is_a_failure_of_that_image(
    run: Embed, photos: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oneclip.embed import batch_encoder as batches

    def failing(content: io.BytesIO, **options: object) -> object:
        if content.name.endswith("2.jpg"):  # type: ignore[attr-defined]
            raise error
        return open_image(content, **options)  # type: ignore[arg-type]

    open_image = batches.open_image
    monkeypatch.setattr(batches, "open_image", failing)
    assert run(photos).rows == 5
    why = "does not fit into memory" if isinstance(error, MemoryError) else str(error)
    assert why in reasons()["photos/2.jpg"]


def test_nothing_readable_writes_nothing(run: Embed, photos: Path) -> None:
    (photos / "0.jpg").write_bytes(b"broken")
    assert run(photos / "0.jpg").rows == 0
    assert not Path("vectors.npz").exists()
    assert len(reasons()) == 1


@pytest.mark.skipif(os.name == "nt", reason="names there are Unicode")
def test_a_name_that_a_format_cannot_hold_is_listed(run: Embed, photos: Path) -> None:
    picture(9).save(os.path.join(b"photos", b"\xff.jpg"), "JPEG")
    assert run(photos, output="folder").rows == 6
    assert "not valid Unicode" in reasons("folder/_errors.csv")["photos/\\udcff.jpg"]
    assert run(photos).rows == 7


# ---------------------------------------------------------------------------------------------------- the model


def spoil(monkeypatch: pytest.MonkeyPatch, is_spoilt: object) -> None:
    """The model gives NaN for pictures that a function is true of."""
    image = InferenceModel.encode_pixels

    def spoiling(self: InferenceModel, pixels: torch.Tensor) -> torch.Tensor:
        features = image(self, pixels)
        features[torch.tensor([bool(is_spoilt(p)) for p in pixels])] = float("nan")  # type: ignore[operator]
        return features

    monkeypatch.setattr(InferenceModel, "encode_pixels", spoiling)


def test_an_embedding_that_is_not_finite_is_listed_and_others_are_written(
    encoder: oneclip.Encoder, run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = encoder.preprocess(picture_of(photos / "2.jpg"))
    spoil(monkeypatch, lambda pixels: torch.equal(pixels, bad))
    outcome = run(photos)
    assert (outcome.encoded, outcome.rows) == (5, 5)
    assert "not finite" in reasons()["photos/2.jpg"]
    assert np.isfinite(np.load("vectors.npz")["vectors"]).all()


def test_a_model_without_finite_numbers_ends_the_run(
    run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda pixels: True)
    with pytest.raises(CheckpointError, match="not finite"):
        run(photos)
    assert not Path("vectors.npz").exists()


def lacking(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """The memory holds so many pictures at once."""
    compute = Plan.__call__

    def lacking(self: Plan, batch: torch.Tensor) -> torch.Tensor | None:
        if len(batch) > most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to …")
        return compute(self, batch)

    monkeypatch.setattr(Plan, "__call__", lacking)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_missing(
    run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos, output="whole.npz")
    lacking(monkeypatch, 1)
    outcome = run(photos)
    assert (outcome.encoded, outcome.failed, outcome.rows) == (6, 0, 6)
    np.testing.assert_allclose(np.load("vectors.npz")["vectors"], np.load("whole.npz")["vectors"], atol=1e-5)


def test_running_out_of_memory_on_one_image_ends_the_run_and_keeps_rows(
    run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.embed.store.PART_ROWS", 2)
    run("photos/0.jpg", output="folder")
    with monkeypatch.context() as patch:
        lacking(patch, 0)
        with pytest.raises(MemoryError):
            run(photos, output="folder")
    assert not Path("folder/_errors.csv").exists()  # not the fault of an image
    assert run(photos, output="folder").kept == 1


def picture_of(path: Path) -> object:
    from oneclip.image import open_image

    return open_image(path)


# ----------------------------------------------------------------------------------------------------- the disk


@pytest.mark.parametrize("output", ["vectors.npz", "vectors.parquet", "folder"])
def test_a_full_disk_keeps_every_part_and_the_next_run_resumes(
    run: Embed, photos: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("oneclip.embed.store.PART_ROWS", 2)
    written: list[int] = []
    with monkeypatch.context() as patch:
        for module, name in (
            ("oneclip.embed.formats.npz", "_write_names"),
            ("pyarrow.parquet", "write_table"),
        ):
            write = getattr(__import__(module, fromlist=[name]), name)

            def until_full(*arguments: object, write: object = write, **arrays: object) -> None:
                if len(written) == 2:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                write(*arguments, **arrays)  # type: ignore[operator]
                written.append(1)

            patch.setattr(f"{module}.{name}", until_full)
        with pytest.raises(OutputError, match="No space left on device"):
            run(photos, output=output)
    assert output == "folder" or not Path(output).exists()
    assert not list(Path().rglob(".*.tmp"))
    outcome = run(photos, output=output)
    assert (outcome.kept, outcome.encoded, outcome.rows) == (4, 2, 6)


def test_a_disk_that_fills_up_at_the_end_leaves_the_finished_file_as_it_was(
    run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos)
    before = Path("vectors.npz").read_bytes()
    picture(9).save(photos / "9.jpg")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("oneclip.embed.formats.npz._write_names", full)
        with pytest.raises(OutputError, match="No space left"):
            run(photos)
    assert Path("vectors.npz").read_bytes() == before
    assert (run(photos).kept, names()[-1]) == (6, "photos/9.jpg")


def test_an_error_table_that_cannot_be_written_ends_the_run(
    run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "5.jpg").write_bytes(b"broken")
    real = Path.open

    def full(self: Path, *arguments: object, **options: object) -> object:
        if self.name.endswith("errors.csv"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, *arguments, **options)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OutputError, match=r"errors.csv could not be written: No space"):
            run(photos)
    assert run(photos).kept == 4


@pytest.mark.parametrize("output", ["vectors.npz", "folder"])
def test_a_damaged_part_is_renamed_and_encoded_again(
    encoder: oneclip.Encoder, run: Embed, photos: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.embed.store.PART_ROWS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(
            EmbeddingStore, "finish", lambda self, *given: (_ for _ in ()).throw(KeyboardInterrupt())
        )
        with pytest.raises(KeyboardInterrupt):
            run(photos, output=output)
    (part,) = Path().glob("*/part-000001.*")
    part.write_bytes(part.read_bytes()[:100])
    with EmbeddingStore(Path(output), EmbeddingMetadata.for_encoder(encoder, "exact")) as store:
        assert store.damaged == [str(part.with_name(f"_damaged-{part.name}"))]
        outcome = embed(encoder, find_sources(["photos"]), store)
    assert (outcome.kept, outcome.encoded, outcome.rows) == (4, 2, 6)
