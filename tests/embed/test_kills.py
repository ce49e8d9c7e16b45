"""A run that is killed repeatedly: at most the current part is lost, and no row is doubled."""

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import picture, write_tiny_model

import oneclip
from tests import programs

N, BATCH, PART, KILLS = 60, 2, 4, 3

# Prints the size of each batch before it is encoded, slowly; a part has four rows.
PROGRAM = f"""
import sys, time, oneclip
from pathlib import Path
from oneclip.embed import run, store
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.embed.sources import find_sources
store.PART_ROWS = {PART}
begin = run.BatchEncoder.begin
def slowly(self, values):
    time.sleep(0.02)
    print(len(values), flush=True)
    return begin(self, values)
run.BatchEncoder.begin = slowly
encoder = oneclip.load(sys.argv[1])
with store.EmbeddingStore(Path(sys.argv[2]), EmbeddingMetadata.for_encoder(encoder, "exact")) as place:
    print("begun", flush=True)
    run.embed(encoder, find_sources(["photos"]), place, batch_size={BATCH})
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a Unix signal")
@pytest.mark.parametrize("output", ["vectors.npz", "folder", "vectors.lance"])
def test_kills_lose_at_most_the_current_part_and_double_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    pytest.importorskip("lance" if output.endswith(".lance") else "pyarrow")
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(N):
        picture(i).save(f"photos/{i:02}.jpg")
    model = write_tiny_model(tmp_path / "model.safetensors")
    chance = random.Random(output)
    encoded = 0
    for run in range(KILLS + 1):
        process, printed = programs.begin(["-c", PROGRAM, model, output])
        with printed:
            lines = []
            if run < KILLS:
                lines = [printed.readline() for _ in range(chance.randint(1, 8))]
                time.sleep(chance.random() * 0.05)
                process.kill()
            lines += printed.read().splitlines()
        process.join()
        encoded += sum(int(line) for line in lines if line.strip().isdigit())
    assert process.exitcode == 0
    expected = [f"photos/{i:02}.jpg" for i in range(N)]
    names, vectors = read(output)
    assert names == expected
    np.testing.assert_allclose(vectors, oneclip.load(model).encode_images(expected), atol=1e-5)
    assert N <= encoded <= N + KILLS * (PART + BATCH)  # the current part and batch are encoded again
    assert not list(Path().rglob("*.tmp"))


def read(output: str) -> tuple[list[str], np.ndarray]:
    """Names, sorted, and their vectors."""
    if output.endswith(".npz"):
        content = np.load(output)
        return content["names"].tolist(), content["vectors"]
    if output.endswith(".lance"):
        table = pytest.importorskip("lance").dataset(output).to_table().sort_by("name")
        return table["name"].to_pylist(), np.array(table["vector"].to_pylist(), np.float32)
    from pyarrow import parquet

    table = parquet.read_table(output).sort_by("name")
    return table["name"].to_pylist(), np.array(table["vector"].to_pylist(), np.float32)
