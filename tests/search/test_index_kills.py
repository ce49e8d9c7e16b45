"""An index whose writers and readers are killed at random moments: nothing is lost, nothing is doubled, it opens."""

import json
import os
from pathlib import Path

import pytest
from tiny import write_tiny_model

from tests import programs

KILLS = 100

# Forks a child for each kill, so that torch and the model are loaded once. torch computes in one thread: a fork has no
# other threads. Each flush has one batch, so that there are many moments to be killed at.
PROGRAM = f"""
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[4:]
from images import write_image
import oneclip
from oneclip.search import Index, maintenance, store
store.PART_SECONDS = 0
maintenance.MANY_SEGMENTS = 3
maintenance.FEW_DEAD = 2

photos, place = Path(sys.argv[1]), sys.argv[2]
encoder = oneclip.load(sys.argv[3])
chance, seeds = random.Random(0), iter(range(10_000))

def change():
    "Add, replace, rename, copy and remove images."
    names = sorted(os.listdir(photos))
    for _ in range(4):
        seed = next(seeds)
        write_image(photos / f"{{seed:05}}.png", seed)
    if len(names) > 4:
        first, second, third, fourth, *_ = chance.sample(names, 4)
        seed = next(seeds)
        write_image(photos / first, seed, time=1_600_000_000 + seed)
        os.rename(photos / second, photos / f"moved{{seed}}.png")
        shutil.copy2(photos / third, photos / f"copy{{seed}}.png")
        os.unlink(photos / fourth)
    for name in names[24:]:
        (photos / name).unlink(missing_ok=True)

def work(kind):
    index = Index(place, model=encoder)
    while True:
        if kind < 5:
            index.update(photos, batch_size=1)
        elif kind == 5:
            index.compact()
        index.search("x", top_k=3)
        if kind == 6:
            index.verify(content=False)

def published():
    "Check what the index has, and return the content of each path."
    with Index(place, model=encoder, create=False) as index:
        entries, snapshot = index.entries(), index.snapshot()
        live = snapshot.contents[snapshot.contents >= 0]
        assert len(set(live.tolist())) == len(live), "a row is doubled"
        wanted = {{entry.content for entry in entries}}
        assert wanted == set(live.tolist()), "a file has no row"
        assert len({{entry.path for entry in entries}}) == len(entries)
        assert index.catalogue.is_whole()
        for segment in snapshot.scan.segments:
            segment.verify()
        return {{entry.path: entry.sha256 for entry in entries}}

write_image(photos / "first.png", next(seeds))
with Index(place, model=encoder) as index:
    index.update(photos)
before, killed = published(), 0
while killed < {KILLS}:
    change()
    child = os.fork()
    if not child:
        try:
            work(chance.randrange(8) if killed % 2 else 0)
        finally:
            os._exit(1)
    time.sleep(chance.random() ** 2 * 0.15)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), status
    killed += 1
    after = published()
    lost = [path for path in before if path not in after and os.path.exists(path)]
    assert not lost, lost
    before = after
with Index(place, model=encoder) as index:
    index.update(photos)
    entries, snapshot = index.entries(), index.snapshot()
    rows = snapshot.rows_of(np.array([entry.content for entry in entries]))
    np.testing.assert_allclose(
        snapshot.scan.vectors(rows), encoder.encode_images([entry.path for entry in entries]), atol=5e-6
    )
    left = {{entry.name for entry in os.scandir(index.segments)}} - set(index.catalogue.segment_names().values())
    print(json.dumps({{"killed": killed, "files": len(entries), "left": sorted(left)}}))
"""


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_a_hundred_kills_lose_no_published_row_and_double_none(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    model = write_tiny_model(tmp_path / "model.safetensors")
    here = Path(__file__).parent
    done = programs.run(["-c", PROGRAM, photos, tmp_path / "index", model, here, here.parent])
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["killed"] == KILLS
    assert result["files"] == len(list(photos.iterdir()))
    assert result["left"] == []
