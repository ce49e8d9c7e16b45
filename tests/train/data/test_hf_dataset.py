"""Hugging Face datasets on disk."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tars import png

from oneclip.errors import DataError
from oneclip.train.data import HFDataset

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def table(numbers: Sequence[int], **more: list[Any]) -> Any:
    """Rows with captions and with images as `datasets` stores them."""
    images = [{"bytes": png(n), "path": None} for n in numbers]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {"image": pyarrow.array(images, kind), "caption": [f"caption {n}" for n in numbers]}
    return pyarrow.table({**columns, **more})


def save_to_disk(folder: Path, rows: Any, files: int = 1, indices: Sequence[int] | None = None) -> Path:
    """Write the files of `Dataset.save_to_disk`."""
    folder.mkdir(parents=True)
    size = -(-len(rows) // files)
    names = [f"data-{n:05}-of-{files:05}.arrow" for n in range(files)]
    for n, name in enumerate(names):
        write_stream(folder / name, rows.slice(n * size, size))
    state: dict[str, Any] = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    if indices is not None:
        write_stream(
            folder / "indices.arrow", pyarrow.table({"indices": pyarrow.array(indices, pyarrow.uint64())})
        )
        state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def write_stream(path: Path, rows: Any) -> None:
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, rows.schema) as stream:
        for batch in rows.to_batches(max_chunksize=3):
            stream.write_batch(batch)


def all_captions(samples: HFDataset) -> list[Any]:
    return [samples.read(number).captions for number in range(len(samples))]


def test_a_saved_dataset_of_several_files(tmp_path: Path) -> None:
    samples = HFDataset(save_to_disk(tmp_path / "d", table(range(10)), files=2))
    assert all_captions(samples) == [[f"caption {n}"] for n in range(10)]
    assert samples.read(7).image == png(7)
    assert samples.block_size == 1


def test_selected_rows_are_read_in_order(tmp_path: Path) -> None:
    samples = HFDataset(save_to_disk(tmp_path / "d", table(range(10)), indices=[8, 1, 5]))
    assert all_captions(samples) == [["caption 8"], ["caption 1"], ["caption 5"]]


def test_a_dictionary_of_splits(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "d" / "train", table(range(4)))
    save_to_disk(tmp_path / "d" / "test", table(range(4, 6)))
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert len(HFDataset(tmp_path / "d")) == 4
    assert len(HFDataset(tmp_path / "d", split="test")) == 2
    with pytest.raises(DataError, match="no split 'validation'; available: train, test"):
        HFDataset(tmp_path / "d", split="validation")


def test_a_folder_of_parquet_files_with_small_groups(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for n in range(2):
        path = tmp_path / "data" / f"train-{n:05}-of-00002.parquet"
        parquet.write_table(table(range(6 * n, 6 * n + 6)), path, row_group_size=4)
    parquet.write_table(table([99]), tmp_path / "data" / "test-00000-of-00001.parquet")
    samples = HFDataset(tmp_path)
    assert all_captions(samples) == [[f"caption {n}"] for n in range(12)]
    assert samples.read(11).image == png(11)
    assert len(HFDataset(tmp_path, split="test")) == 1


def test_lists_of_captions_and_paths_of_images(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    rows = pyarrow.table({"image_path": ["0.png", None], "sentences": [["one", "two"], []]})
    parquet.write_table(rows, tmp_path / "a.parquet")
    samples = HFDataset(tmp_path / "a.parquet")
    assert samples.read(0)[:2] == (tmp_path / "0.png", ["one", "two"])
    assert "column 'image_path' is empty in this row" in str(samples.read_many([1])[0])


def test_missing_columns_raise_with_the_available_ones(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "d", table(range(2)).rename_columns(["image", "alttext"]))
    with pytest.raises(
        DataError, match=r"cannot tell which column contains the captions of .*'image', 'alttext'"
    ):
        HFDataset(folder)
    with pytest.raises(DataError, match=r"no column 'alt_text' .*did you mean 'alttext'"):
        HFDataset(folder, caption_column="alt_text")
    assert all_captions(HFDataset(folder, caption_column="alttext"))[0] == ["caption 0"]


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_pickled_dataset_has_the_same_rows(tmp_path: Path, kind: str) -> None:
    if kind == "arrow":
        samples = HFDataset(save_to_disk(tmp_path / "d", table(range(5)), indices=[3, 2]))
    else:
        parquet.write_table(table(range(5)), tmp_path / "a.parquet")
        samples = HFDataset(tmp_path / "a.parquet")
    again = pickle.loads(pickle.dumps(samples))
    assert again.read(1) == samples.read(1)
    assert again.identity == samples.identity


def test_folders_without_a_dataset_and_damaged_files_raise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        HFDataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is not a dataset: it contains neither a state\.json"):
        HFDataset(tmp_path)
    with pytest.raises(DataError, match="has no rows"):
        HFDataset(save_to_disk(tmp_path / "empty", table([])))
    damaged = save_to_disk(tmp_path / "d", table(range(10)))
    file = damaged / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="is damaged or not a valid Arrow stream"):
        HFDataset(damaged)
    file.unlink()
    with pytest.raises(DataError, match=r"lacks files that its state\.json lists"):
        HFDataset(damaged)


def test_the_identity_changes_with_a_caption_of_the_same_length(tmp_path: Path) -> None:
    identities = []
    for n, caption in enumerate(("a cat", "a dog")):
        folder = save_to_disk(tmp_path / str(n), table([0, 1]).set_column(1, "caption", [[caption, "same"]]))
        identities.append(HFDataset(folder).identity["data"])
        parquet.write_table(table([0, 1]).set_column(1, "caption", [[caption, "same"]]), folder / "a.parquet")
        identities.append(HFDataset(folder / "a.parquet").identity["data"])
    assert len(set(identities)) == 4


def with_offsets_beyond_the_end(path: Path) -> None:
    """Make the offsets of the captions in the first batch point far outside of it."""
    content = path.read_bytes()
    with pyarrow.ipc.open_stream(content) as stream:
        batch = stream.read_next_batch()
    buffer = batch.column("caption").buffers()[1]
    offsets = buffer.to_pybytes()
    assert content.count(offsets) == 1
    harm = np.frombuffer(offsets, np.int32).copy()
    harm[1:] = 2**30
    path.write_bytes(content.replace(offsets, harm.tobytes()))


def test_offsets_outside_a_batch_raise_instead_of_crashing(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "saved", table(range(3)))
    with_offsets_beyond_the_end(folder / "data-00000-of-00001.arrow")
    samples = HFDataset(folder)
    for number in range(3):
        with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow is damaged"):
            samples.read(number)


@pytest.mark.parametrize("indices", [[0, 9], [2**63], [2**64 - 1]])
def test_indices_of_missing_rows_raise(tmp_path: Path, indices: list[int]) -> None:
    folder = save_to_disk(tmp_path / "saved", table(range(3)), indices=indices)
    with pytest.raises(DataError, match=r"indices\.arrow is damaged: it refers to rows"):
        HFDataset(folder)


@pytest.mark.parametrize(
    "state",
    [
        "[" * 100_000,
        '{"_data_files": 3}',
        '{"_data_files": [3]}',
        '{"_data_files": [{}]}',
        '{"_data_files": [{"filename": "../x.arrow"}]}',
        '{"_data_files": [{"filename": "/etc/passwd"}]}',
        '{"_data_files": [{"filename": "a\\u0000b"}]}',
    ],
)
def test_a_malformed_state_raises(tmp_path: Path, state: str) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(DataError, match=r"state\.json"):
        HFDataset(tmp_path)
