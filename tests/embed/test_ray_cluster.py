"""A local Ray cluster of two workers: after kills and interruptions no item is lost or doubled."""

import csv
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tars import write_tar
from tiny import picture, write_tiny_model

import oneclip
from oneclip.cli.app import run as run_command
from oneclip.embed.ray_cluster import RayCluster
from oneclip.embed.result_collector import ResultCollector
from oneclip.embed.work_units import ResultBatch
from oneclip.errors import ClusterError, MissingExtraError
from oneclip.installation import install_command

Embed = Callable[..., Any]  # the fixture `run`
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="ray is not installed: pip install 'ray[data]'"
)
MARKER = "died.txt"


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A cluster with two processors, which commands of this process find running."""
    cluster = RayCluster(workers=2)  # which sets what keeps Ray quiet
    ray = sys.modules["ray"]
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # 15 by default: beside other tests its workers would hardly run
    quietly = {"include_dashboard": False, "log_to_driver": False, "logging_level": "CRITICAL"}
    for is_last in (False, False, True):
        try:
            ray.init("local", num_cpus=2, **quietly)
            break
        except Exception:  # it gives a node 30 seconds to start, which a busy machine may not have
            ray.shutdown()
            if is_last:
                raise
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with cluster:
        assert (cluster.pool.workers, cluster.pool.cpus) == (2, 1)
        yield
    assert ray.is_initialized()  # it was not the cluster's own
    ray.shutdown()


def deadly_load(
    name: str, precision: str, max_pixels: int | None, truncated: Any, device: str | None
) -> oneclip.Encoder:
    """What a worker calls: pictures of 41 pixels kill it, the first time that one does."""
    from oneclip.embed import worker

    def preparation(encoder: oneclip.Encoder, decode: Any) -> Any:
        prepare = worker_preparation(encoder, decode)

        def deadly(content: Any) -> Any:
            from PIL import Image

            width = 0
            with suppress(OSError):
                width = Image.open(content).width
            if width == 41 and not os.path.exists(MARKER):
                Path(MARKER).write_text("once", encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
            content.seek(0)
            return prepare.decode(content)

        return replace(prepare, decode=deadly)

    worker_preparation, worker.item_decoder = worker.item_decoder, preparation
    return oneclip.load(name, device=device, precision=precision, max_pixels=max_pixels, truncated=truncated)  # type: ignore[arg-type]


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-scheme://127.0.0.1:1"])
def test_a_missing_cluster_is_an_immediate_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)  # no test of this file before it starts a cluster
    with pytest.raises(ClusterError, match=f"at {address} cannot be reached"):
        RayCluster().__enter__()


@needs_ray
@pytest.mark.skipif(os.name == "nt", reason="sends a Unix signal")
@pytest.mark.usefixtures("two_workers")
def test_an_interrupted_run_with_a_killed_worker_equals_a_local_run(
    run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(30):
        picture(i).save(f"photos/{i:02}.jpg")
    Path("photos/29.jpg").write_bytes(Path("photos/00.jpg").read_bytes())  # equal content
    members = {f"{i}.jpg": Path(f"photos/{i:02}.jpg").read_bytes() for i in range(3, 9)}
    write_tar("shard.tar", {**members, "x.jpg": b"broken"})
    model = write_tiny_model(tmp_path / "model.safetensors")
    words = ["photos", "shard.tar", "photos/03.jpg"]
    command = ["embed", *words, "-o", "vectors.npz", "--model", str(model), "--batch-size", "2", "--skip"]
    command += ["--engine", "ray", "--workers", "2"]

    add, added, kept = ResultCollector.add, [], set()

    def interrupted(self: ResultCollector, batch: ResultBatch) -> None:
        if len(kept) >= 6:
            raise KeyboardInterrupt
        added.append(batch)
        kept.update(result.name for result in batch.results if result.vector is not None)
        add(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ResultCollector, "add", interrupted)
        assert run_command(command) == 130
    captured = capsys.readouterr()
    assert len(added) < 18  # of as many batches, and an end of each unit
    assert f"{len(kept)} embeddings are saved" in captured.err
    assert captured.out == ""

    changed = min((name for name in kept if name.startswith("photos")), default="photos/01.jpg")
    picture(77).save(changed)
    deadly = max({f"photos/{i:02}.jpg" for i in range(10, 29)} - kept - {changed})
    picture(88, (41, 36)).save(deadly)
    monkeypatch.setattr("oneclip.cli.embed._load_in_worker", deadly_load)
    assert run_command(command) == 3, capsys.readouterr().err
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"resuming: {len(kept)} embeddings" in captured.err
    assert f"{len(kept - {changed})} already done" in captured.err
    assert Path(MARKER).exists()
    assert "1 worker died; their unfinished work" in captured.err, captured.err

    run(*words, output="local.npz")
    ours, local = np.load("vectors.npz"), np.load("local.npz")
    assert ours["names"].tolist() == local["names"].tolist()
    assert len(set(ours["names"].tolist())) == 30 + 6
    assert ours["sha256"].tolist() == local["sha256"].tolist()
    np.testing.assert_allclose(ours["vectors"], local["vectors"], atol=1e-5)
    assert str(ours["weights"]) == str(local["weights"])
    tables = [Path(f"{name}.npz.errors.csv").read_text(encoding="utf-8") for name in ("vectors", "local")]
    assert tables[0] == tables[1]
    assert [row[0] for row in csv.reader(tables[0].splitlines())] == ["name", "shard.tar/x.jpg"]


@needs_ray
@pytest.mark.usefixtures("two_workers")
def test_a_model_that_workers_cannot_load_is_an_error_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def load(device: str) -> oneclip.Encoder:
        return oneclip.load("no-such-model", device=device)

    with RayCluster() as cluster, pytest.raises(ClusterError, match=r"no worker could load.*no-such-model"):
        cluster.prepare(load, "exact")


def test_without_ray_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.embed.ray_cluster.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("ray"))):
        RayCluster()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "2"], "--workers works only with --engine ray"),
        (["--ray-address", "auto"], "--ray-address works only with --engine ray"),
        (["--engine", "ray", "--cache", "c"], "--cache is a local folder"),
    ],
)
def test_options_of_the_other_engine_are_usage_errors(
    photos: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run_command(["embed", "photos", "-o", "v.npz", *arguments]) == 2
    assert message in capsys.readouterr().err
