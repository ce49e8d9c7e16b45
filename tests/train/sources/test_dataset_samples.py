"""Datasets on disk, laid out as `datasets` does."""

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
from oneclip.train.data import DatasetSamples

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def table(numbers: Sequence[int], **more: list[Any]) -> Any:
    """Rows with pictures as `datasets` stores them, and captions."""
    pictures = [{"bytes": png(n), "path": None} for n in numbers]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {"image": pyarrow.array(pictures, kind), "caption": [f"caption {n}" for n in numbers]}
    return pyarrow.table({**columns, **more})


def save_to_disk(folder: Path, rows: Any, files: int = 1, indices: Sequence[int] | None = None) -> Path:
    """What `Dataset.save_to_disk` writes."""
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


def all_captions(samples: DatasetSamples) -> list[Any]:
    return [samples.read(number).captions for number in range(len(samples))]


def test_a_saved_dataset_of_several_files(tmp_path: Path) -> None:
    samples = DatasetSamples(save_to_disk(tmp_path / "d", table(range(10)), files=2))
    assert all_captions(samples) == [[f"caption {n}"] for n in range(10)]
    assert samples.read(7).picture == png(7)
    assert samples.run == 1


def test_rows_that_were_selected_count_in_their_order(tmp_path: Path) -> None:
    samples = DatasetSamples(save_to_disk(tmp_path / "d", table(range(10)), indices=[8, 1, 5]))
    assert all_captions(samples) == [["caption 8"], ["caption 1"], ["caption 5"]]


def test_a_dictionary_of_splits(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "d" / "train", table(range(4)))
    save_to_disk(tmp_path / "d" / "test", table(range(4, 6)))
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert len(DatasetSamples(tmp_path / "d")) == 4
    assert len(DatasetSamples(tmp_path / "d", split="test")) == 2
    with pytest.raises(DataError, match="no split 'validation'; it has train, test"):
        DatasetSamples(tmp_path / "d", split="validation")


def test_a_folder_of_parquet_files_with_small_groups(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for n in range(2):
        path = tmp_path / "data" / f"train-{n:05}-of-00002.parquet"
        parquet.write_table(table(range(6 * n, 6 * n + 6)), path, row_group_size=4)
    parquet.write_table(table([99]), tmp_path / "data" / "test-00000-of-00001.parquet")
    samples = DatasetSamples(tmp_path)
    assert all_captions(samples) == [[f"caption {n}"] for n in range(12)]
    assert samples.read(11).picture == png(11)
    assert len(DatasetSamples(tmp_path, split="test")) == 1


def test_lists_of_captions_and_paths_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    rows = pyarrow.table({"image_path": ["0.png", None], "sentences": [["one", "two"], []]})
    parquet.write_table(rows, tmp_path / "a.parquet")
    samples = DatasetSamples(tmp_path / "a.parquet")
    assert samples.read(0)[:2] == (tmp_path / "0.png", ["one", "two"])
    assert "nothing stands in column 'image_path'" in str(samples.read_run([1])[0])


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "d", table(range(2)).rename_columns(["image", "alttext"]))
    with pytest.raises(DataError, match=r"which column has the captions of .*'image', 'alttext'"):
        DatasetSamples(folder)
    with pytest.raises(DataError, match=r"no column 'alt_text' .*did you mean 'alttext'"):
        DatasetSamples(folder, caption_column="alt_text")
    assert all_captions(DatasetSamples(folder, caption_column="alttext"))[0] == ["caption 0"]


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_process_gets_the_same_rows(tmp_path: Path, kind: str) -> None:
    if kind == "arrow":
        samples = DatasetSamples(save_to_disk(tmp_path / "d", table(range(5)), indices=[3, 2]))
    else:
        parquet.write_table(table(range(5)), tmp_path / "a.parquet")
        samples = DatasetSamples(tmp_path / "a.parquet")
    again = pickle.loads(pickle.dumps(samples))
    assert again.read(1) == samples.read(1)
    assert again.identity == samples.identity


def test_folders_that_are_no_dataset_empty_ones_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        DatasetSamples(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is no dataset: expected state\.json"):
        DatasetSamples(tmp_path)
    with pytest.raises(DataError, match="has no rows"):
        DatasetSamples(save_to_disk(tmp_path / "empty", table([])))
    damaged = save_to_disk(tmp_path / "d", table(range(10)))
    file = damaged / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="is damaged or no Arrow stream"):
        DatasetSamples(damaged)
    file.unlink()
    with pytest.raises(DataError, match=r"lacks files that its state\.json names"):
        DatasetSamples(damaged)


def test_the_identity_changes_with_a_caption_of_the_same_length(tmp_path: Path) -> None:
    identities = []
    for n, caption in enumerate(("a cat", "a dog")):
        folder = save_to_disk(tmp_path / str(n), table([0, 1]).set_column(1, "caption", [[caption, "same"]]))
        identities.append(DatasetSamples(folder).identity["data"])
        parquet.write_table(table([0, 1]).set_column(1, "caption", [[caption, "same"]]), folder / "a.parquet")
        identities.append(DatasetSamples(folder / "a.parquet").identity["data"])
    assert len(set(identities)) == 4


def with_offsets_beyond_the_end(path: Path) -> None:
    """The captions of the first batch, their offsets made to lead far out of it."""
    content = path.read_bytes()
    with pyarrow.ipc.open_stream(content) as stream:
        batch = stream.read_next_batch()
    buffer = batch.column("caption").buffers()[1]
    offsets = buffer.to_pybytes()
    assert content.count(offsets) == 1
    harm = np.frombuffer(offsets, np.int32).copy()
    harm[1:] = 2**30
    path.write_bytes(content.replace(offsets, harm.tobytes()))


def test_offsets_that_lead_out_of_a_batch_are_an_error_and_no_crash(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "saved", table(range(3)))
    with_offsets_beyond_the_end(folder / "data-00000-of-00001.arrow")
    samples = DatasetSamples(folder)
    for number in range(3):
        with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow is damaged"):
            samples.read(number)


@pytest.mark.parametrize("indices", [[0, 9], [2**63], [2**64 - 1]])
def test_indices_of_rows_that_are_not_there_are_an_error(tmp_path: Path, indices: list[int]) -> None:
    folder = save_to_disk(tmp_path / "saved", table(range(3)), indices=indices)
    with pytest.raises(DataError, match=r"indices\.arrow is damaged: it names rows"):
        DatasetSamples(folder)


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
def test_a_state_that_is_none_is_an_error(tmp_path: Path, state: str) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(DataError, match=r"state\.json"):
        DatasetSamples(tmp_path)
