"""Preflight checks find problems before the first step, and do not change the training."""

from __future__ import annotations

from collections import namedtuple
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from six_colours import arguments, logged
from tars import members, write_tar
from tiny_clip import Pairs, TinyCLIP
from torch import nn

from oneclip.cli.app import run as cli
from oneclip.cli.exits import ExitCode
from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError, OutputError
from oneclip.image import Augment
from oneclip.train import Stepper, TrainCfg, Trainer
from oneclip.train.data import BatchLoader, open_dataset
from oneclip.train.distributed.world import World
from oneclip.train.initial_model import load_initial_model
from oneclip.train.preflight import (
    check_disk,
    check_memory,
    check_shards,
    check_tokenizer,
    first_of,
    fits,
    vocabulary_size,
)

Usage = namedtuple("Usage", "total used free")


def trainer(out: Path | None = None, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    return Trainer(TinyCLIP(), Pairs(), TrainCfg(**({"steps": 10} | settings)), out=out)


class SmallDevice(Stepper):
    """Step on a device with memory for `room` pairs."""

    def __init__(self, *args: Any, room: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.room = room
        self.tried: list[int] = []

    def training_step(self, batch: Any) -> Any:
        self.tried.append(len(batch.images))
        if len(batch.images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().training_step(batch)


def on_small_device(room: int) -> Trainer:
    make_stepper = partial(SmallDevice, room=room)
    return Trainer(TinyCLIP(), Pairs(), TrainCfg(steps=3), make_stepper=make_stepper)


def test_the_checks_change_no_loss(data: Path) -> None:
    assert cli(arguments(data, "--epochs", "2", "--preflight", "off")) == ExitCode.OK
    unchecked = logged(data)
    assert cli([*arguments(data, "--epochs", "2"), "--out", str(data / "other")]) == ExitCode.OK
    lines = (data / "other" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(unchecked)
    assert all(f'"loss": {loss}' in line for loss, line in zip(unchecked, lines, strict=True))


def test_checks_alone_train_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(arguments(data, "--epochs", "2", "--preflight", "only")) == ExitCode.OK
    captured = capsys.readouterr()
    checked = [line.split()[1] for line in captured.err.splitlines() if line.startswith("checked ")]
    assert checked == ["disk:", "data:", "shards:", "tokenizer:", "memory:"]
    assert "nothing was trained" in captured.out
    assert not (data / "run").exists()


def test_the_memory_check_does_not_change_the_model() -> None:
    class WithStatistics(TinyCLIP):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(3 * 8 * 8)

        def encode_image(self, image: torch.Tensor) -> torch.Tensor:
            return self.proj(self.dropout(self.bn(image.flatten(1))))

    checked = Trainer(WithStatistics(), Pairs(), TrainCfg(steps=3))
    before = {name: tensor.clone() for name, tensor in checked.model.state_dict().items()}
    random = torch.get_rng_state()
    assert fits(checked, checked.prepare.on_host(Pairs().batch(0)))
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(checked.model.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in checked.model.parameters())


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does() -> None:
    small = on_small_device(room=3)
    with pytest.raises(
        ConfigError, match="a batch of 8 pairs does not fit into the memory of cpu; 2 pairs fit"
    ):
        check_memory(small, small.prepare.on_host(Pairs().batch(0)))
    assert small.stepper.tried == [8, 4, 2]  # type: ignore[attr-defined]
    small = on_small_device(room=0)
    with pytest.raises(ConfigError, match="not even one pair fits"):
        check_memory(small, small.prepare.on_host(Pairs().batch(0)))


def test_an_error_other_than_out_of_memory_is_raised() -> None:
    class Broken(Stepper):
        def training_step(self, batch: Any) -> Any:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fits(Trainer(TinyCLIP(), Pairs(), TrainCfg(steps=3), make_stepper=Broken), Pairs().batch(0))


def test_the_first_of_a_batch_is_a_batch() -> None:
    batch = Pairs().batch(0)._replace(extra={"teacher": torch.arange(8)})
    part = first_of(batch, 3)
    assert (len(part.images), len(part.texts)) == (3, 3)
    assert part.extra["teacher"].tolist() == [0, 1, 2]


def test_a_disk_too_full_for_the_checkpoints_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.train.preflight.shutil.disk_usage", lambda path: Usage(10**6, 0, 2 * 10**5))
    assert check_disk(trainer(tmp_path, checkpoint_every=5, keep_checkpoints=1), tmp_path).startswith(
        "disk: "
    )
    with pytest.raises(
        OutputError, match=r"0.2 MB free, and 10 checkpoints of .* keep fewer \(keep_checkpoints, now 0\)"
    ):
        check_disk(trainer(tmp_path, checkpoint_every=1, keep_checkpoints=0), tmp_path)


@pytest.mark.parametrize("name", ["step_1.pt", "step_1/__0_0.distcp"])
def test_space_of_earlier_checkpoints_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("oneclip.train.preflight.shutil.disk_usage", lambda path: Usage(10**6, 0, 0))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\0" * 2 * 10**5)
    assert check_disk(trainer(tmp_path, checkpoint_every=5, keep_checkpoints=1), tmp_path).startswith(
        "disk: "
    )


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere cannot be written"):
        check_disk(trainer(tmp_path), tmp_path / "nowhere")


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(data: Path) -> None:
    start = load_initial_model(str(data / "model.json"), None)
    batch = start.prepare.on_host(Pairs().batch(0)._replace(texts=["something red"] * 8))
    assert check_tokenizer(start, batch) == "tokenizer: 49408 ids of 49408, 16 a caption"
    start.model.token_embedding = nn.Embedding(1000, 16)  # type: ignore[assignment]
    assert vocabulary_size(start.model) == 1000
    with pytest.raises(ConfigError, match="has 49408 token ids, and the model 1000"):
        check_tokenizer(start, batch)


def test_a_tokenizer_with_another_context_length_is_refused(data: Path) -> None:
    start = load_initial_model(str(data / "model.json"), None)
    batch = start.prepare.on_host(Pairs().batch(0)._replace(texts=["something red"] * 8))
    start.tokenizer.context_length = 77
    with pytest.raises(ConfigError, match="has context_length 77, and the model 16"):
        check_tokenizer(start, batch)


def test_fewer_shards_than_readers_are_reported(tmp_path: Path) -> None:
    for n in range(2):
        write_tar(tmp_path / f"{n}.tar", members(3, 3 * n))
    checked = trainer()
    assert check_shards(checked) == "shards: the data is not in shards"
    shards = open_dataset(str(tmp_path / "*.tar"))
    checked.source = BatchLoader(shards, 4, Augment(PreprocessCfg(size=8)), threads=1)
    assert check_shards(checked) == "shards: 2 for 1 readers"
    checked.source = BatchLoader(shards, 4, Augment(PreprocessCfg(size=8)), threads=1, workers=3)
    assert check_shards(checked) == "shards: 2 for 3 readers; more shards would be read in parallel"
    checked.source.close()
    checked.source = BatchLoader(shards, 4, Augment(PreprocessCfg(size=8)), threads=1)
    checked.world = World(size=4)
    assert check_shards(checked) == "shards: 2 for 4 readers; more shards would be read in parallel"
