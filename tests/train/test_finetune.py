"""Fine-tuning: what it trains, and what it writes."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PIXELS, picture, tiny_cfg, write_tiny_model

import oneclip
from oneclip import checkpoint
from oneclip.config import CLIPVisionCfg
from oneclip.config.schema import from_flat
from oneclip.config.toml_file import read_settings
from oneclip.errors import ConfigError, DataError, MissingExtraError
from oneclip.hub.pairs import read_pairs
from oneclip.installation import install_command
from oneclip.train import TrainCfg, TrainingReport, read_checkpoint
from oneclip.train.finetune import FinetuneCfg, FinetuneResult, finetune
from oneclip.train.finetune.held_out_split import split_pairs
from oneclip.train.finetune.teacher import load_teacher
from oneclip.train.initial_model import InitialModel

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four images of four colours with captions; the first one with two captions."""
    folder = tmp_path_factory.mktemp("table")
    noise = np.random.default_rng(0)
    rows = []
    for i in range(24):
        colour = list(COLOURS)[i % 4]
        pixels = np.clip(np.array(COLOURS[colour]) + noise.integers(-25, 25, (PIXELS, PIXELS, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        rows.append((f"{i}.png", f"a {colour} square"))
    rows.append(("0.png", "something red"))
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filepath", "caption"), *rows])
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of another kind."""
    folder = tmp_path_factory.mktemp("before")
    for i in range(6):
        picture(i).save(folder / f"{i}.png")
    rows = "".join(f"{i}.png,squares of kind {i}\n" for i in range(6))
    (folder / "old.csv").write_text(f"filepath,caption\n{rows}")
    return folder / "old.csv"


def tune(model: Path, table: Path | tuple[str, ...], out: Path, **settings: Any) -> FinetuneResult:
    defaults = {"reference": "none", "epochs": 1, "batch_size": 8, "points": 3, "device": "cpu"}
    return finetune(FinetuneCfg(model=model, data=table, out=out, **(defaults | settings)))


def weights(path: Path | str) -> Mapping[str, torch.Tensor]:
    return checkpoint.load(path, device="cpu").model.state_dict()


def changed(model: Path, result: FinetuneResult) -> set[str]:
    old, new = weights(model), weights(result.run.model)
    return {name for name in old if not torch.equal(old[name], new[name])}


@pytest.fixture(scope="module")
def results() -> dict[str, FinetuneResult]:
    return {}


@pytest.fixture
def plain(
    model: Path,
    table: Path,
    tmp_path_factory: pytest.TempPathFactory,
    results: dict[str, FinetuneResult],
    undrawn: None,
) -> FinetuneResult:
    """Return the fine-tuning that others are compared with; one for all tests, without a plot."""
    if not results:
        results["plain"] = tune(model, table, tmp_path_factory.mktemp("plain") / "out", alpha="after")
    return results["plain"]


@pytest.mark.draws
def test_it_writes_a_model_metrics_and_a_plot(
    model: Path, table: Path, reference: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    result = tune(model, table, out, reference=reference, lr=1e-3, epochs=2)
    assert oneclip.load(out / "model").encode_texts("a red square").shape == (1, 16)
    found = json.loads((out / "wise_ft.json").read_text())
    assert [point["alpha"] for point in found["points"]] == [0.0, 0.5, 1.0]
    assert (found["new_name"], found["reference_name"]) == ("held_out.csv", "old.csv")
    assert found["chosen"] == result.sweep.chosen
    assert Image.open(out / "wise_ft.png").width > 500
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "gained: held_out.csv" in page
    assert "data:image/png;base64," in page


def test_held_out_images_are_not_trained_on(model: Path, table: Path, tmp_path: Path) -> None:
    tune(model, table, tmp_path / "out", held_out=0.25)
    sides = []
    for name in ("train.csv", "held_out.csv"):
        with (tmp_path / "out" / "data" / name).open(newline="") as file:
            sides.append({row["filepath"] for row in csv.DictReader(file)})
    assert [len(side) for side in sides] == [18, 6]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("changes", "message"), [({"seed": 1}, "contains another split"), ({}, "already contains a run")]
)
def test_a_refused_run_leaves_the_split_of_the_finished_one(
    model: Path, table: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    tune(model, table, tmp_path / "out", held_out=0.25)
    files = [tmp_path / "out" / "data" / name for name in ("train.csv", "held_out.csv")]
    before = [path.read_bytes() for path in files]
    resume = {"resume": "auto"} if changes else {}
    with pytest.raises(ConfigError, match=message):
        tune(model, table, tmp_path / "out", held_out=0.25, train=changes, **resume)
    assert [path.read_bytes() for path in files] == before


def test_config_toml_repeats_the_fine_tuning_from_any_folder(
    model: Path, table: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    first = tune(
        model, Path(table.name), tmp_path / "out", reference=reference, method="last", last=1, alpha="after"
    )
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "out" / "config.toml").read_text()
    assert text.startswith("# To run it again: oneclip finetune --config THIS_FILE --out OTHER_FOLDER\n")
    assert f'data = "{table}"' in text
    assert "# evaluate_every = 3\n" in text  # 22 pairs, 8 a batch
    told = read_settings(tmp_path / "out" / "config.toml", FinetuneCfg)
    again = finetune(from_flat(FinetuneCfg, told | {"out": str(tmp_path / "again")}))
    expected, found = weights(first.run.model), weights(again.run.model)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not (tmp_path / "out" / "finetune.toml").exists()


def test_several_tables_are_learnt_together(model: Path, table: Path, tmp_path: Path) -> None:
    sources = (f"{table}@3", "synthetic:16@1")
    result = tune(model, sources, tmp_path / "out", eval_data=table, alpha="after", train={"log_every": 1})
    assert changed(model, result)
    with pytest.raises(ConfigError, match="only a single table can be split"):
        tune(model, sources, tmp_path / "other")


def test_the_image_tower_alone_changes(model: Path, table: Path, tmp_path: Path) -> None:
    names = changed(model, tune(model, table, tmp_path / "out", method="image", alpha="after"))
    assert {name for name in names if not name.startswith("visual.")} <= {"logit_scale"}
    assert "visual.conv1.weight" in names


def test_images_and_captions_may_have_another_size(model: Path, table: Path, tmp_path: Path) -> None:
    result = tune(model, table, tmp_path / "out", image_size=48, context_length=16)
    clip = oneclip.load(result.run.model, device="cpu")
    assert clip.preprocess.cfg.size == 48
    assert clip.model.visual.positional_embedding.shape[0] == 3 * 3 + 1
    assert clip.tokenizer.context_length == 16
    assert result.sweep.points[0].new.keys() == result.sweep.points[-1].new.keys()


def test_the_best_of_a_training_is_what_comes_after(
    model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = {"keep_best": True, "log_every": 1}
    kept = tune(model, table, tmp_path / "out", epochs=3, lr=3e-3, alpha="after", train=best)
    step = kept.run.outcome.best_step
    assert step
    weights_then = read_checkpoint(tmp_path / "out" / "best.pt")["state_dict"]
    assert torch.equal(weights(kept.run.model)["visual.proj"], weights_then["visual.proj"])


def test_the_same_seed_holds_out_the_same_images(table: Path) -> None:
    pairs = read_pairs(table)
    held_out = [split_pairs(pairs, 0.25, seed)[1].images for seed in (1, 1, 2)]
    assert held_out[0] == held_out[1] != held_out[2]


def test_all_captions_of_an_image_are_on_one_side(table: Path) -> None:
    pairs = read_pairs(table)
    for seed in range(10):
        train, held_out = split_pairs(pairs, 0.25, seed)
        assert not set(train.images) & set(held_out.images)
        assert len(train) + len(held_out) == len(pairs) == 25


def test_full_changes_both_towers(model: Path, plain: FinetuneResult) -> None:
    names = changed(model, plain)
    assert "visual.conv1.weight" in names
    assert "transformer.resblocks.0.mlp.c_fc.weight" in names


@pytest.mark.parametrize("method", ["full", "last"])
def test_batch_norm_statistics_are_held_so_that_micro_batches_have_the_gradients_of_the_batch(
    table: Path, tmp_path: Path, method: str
) -> None:
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, head_width=16, image_size=PIXELS, patch_size=None)
    resnet = write_tiny_model(tmp_path / "resnet.safetensors", vision_cfg=vision)
    last = {"last": 1} if method == "last" else {}
    whole, parts = (
        tune(resnet, table, tmp_path / f"{n}", method=method, alpha="after", train={"micro_batch": n}, **last)
        for n in (0, 3)
    )
    names = changed(resnet, whole)
    assert names
    assert not any("running_" in name or "num_batches" in name for name in names)
    expected, found = weights(whole.run.model), weights(parts.run.model)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_lit_does_not_change_the_image_tower(model: Path, table: Path, tmp_path: Path) -> None:
    names = changed(model, tune(model, table, tmp_path / "out", method="lit", alpha="after"))
    assert names
    assert not any(name.startswith("visual.") for name in names)


def test_last_changes_the_last_groups_of_each_tower(model: Path, table: Path, tmp_path: Path) -> None:
    names = changed(model, tune(model, table, tmp_path / "out", method="last", last=1, alpha="after"))
    assert names == {"visual.proj", "text_projection", "logit_scale"}


def test_lora_writes_adapters_that_give_the_written_model(model: Path, table: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    result = tune(model, table, tmp_path / "out", method="lora", rank=2, alpha=0.5)
    assert result.sweep.chosen == 0.5
    clip, merged = oneclip.load(model, device="cpu"), oneclip.load(result.run.model, device="cpu")
    adapted = peft.PeftModel.from_pretrained(clip.model, str(result.adapter)).base_model.model
    ids = clip.tokenizer(["a red square"])
    with torch.no_grad():
        torch.testing.assert_close(
            adapted.encode_text(ids), merged.model.encode_text(ids), rtol=1e-4, atol=1e-5
        )
    assert any("in_proj_weight" in name for name in changed(model, result))


def test_the_similarities_of_a_teacher_are_learned(
    model: Path, table: Path, plain: FinetuneResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def recorded(name: str, start: InitialModel, train_cfg: TrainCfg) -> Any:
        teach = load_teacher(name, start, train_cfg)
        return lambda batch: seen.append(len(batch.images)) or teach(batch)

    monkeypatch.setattr("oneclip.train.finetune.run.load_teacher", recorded)
    teacher = write_tiny_model(tmp_path / "teacher.safetensors", seed=1)
    taught = tune(model, table, tmp_path / "taught", alpha="after", teacher=str(teacher))
    assert seen
    assert set(seen) == {8}
    assert not torch.equal(weights(plain.run.model)["visual.proj"], weights(taught.run.model)["visual.proj"])


def test_alpha_0_writes_the_original_model(model: Path, table: Path, tmp_path: Path) -> None:
    assert not changed(model, tune(model, table, tmp_path / "out", alpha=0.0))


def test_another_table_or_a_folder_of_classes_may_be_held_out(
    model: Path, table: Path, tmp_path: Path
) -> None:
    for i, colour in enumerate(("red", "green")):
        (tmp_path / "classes" / colour).mkdir(parents=True)
        (tmp_path / "classes" / colour / "1.png").write_bytes((table.parent / f"{i}.png").read_bytes())
    result = tune(model, table, tmp_path / "out", eval_data=tmp_path / "classes")
    assert (result.sweep.new_name, result.sweep.new_metric) == ("classes", "acc1")
    assert not (tmp_path / "out" / "data").exists()


def test_a_source_other_than_a_table_is_trained_on(model: Path, table: Path, tmp_path: Path) -> None:
    result = tune(model, Path("synthetic:16"), tmp_path / "out", eval_data=table, alpha="after")
    assert changed(model, result)


def test_settings_of_a_training_are_used(
    model: Path, table: Path, plain: FinetuneResult, tmp_path: Path
) -> None:
    decayed = tune(model, table, tmp_path / "decayed", alpha="after", train={"layer_decay": 0.5})
    name = "visual.conv1.weight"
    before = weights(model)[name]
    moved = [(weights(result.run.model)[name] - before).norm() for result in (plain, decayed)]
    assert 0 < moved[1] < moved[0]


def test_with_ema_the_averaged_weights_are_written(
    model: Path, table: Path, plain: FinetuneResult, tmp_path: Path
) -> None:
    results = [plain] + [
        tune(
            model, table, tmp_path / f"{method}{ema}", alpha="after", method=method, train={"ema_decay": ema}
        )
        for ema, method in ((0.9, "full"), (0.0, "lora"), (0.9, "lora"))
    ]
    name = "transformer.resblocks.0.attn.in_proj_weight"
    before = weights(model)[name]
    moved = [(weights(result.run.model)[name] - before).norm() for result in results]
    assert 0 < moved[1] < moved[0]
    assert 0 < moved[3] < moved[2]


def test_an_interrupted_fine_tuning_resumes_to_the_same_model(
    model: Path, table: Path, tmp_path: Path
) -> None:
    whole = tune(model, table, tmp_path / "whole", epochs=3, alpha="after")

    class Stops:
        """Interrupts, as Ctrl-C does, at the first report."""

        asked = False

        def start(self, step: int, steps: int) -> None: ...
        def evaluated(self, step: int, results: Mapping[str, float]) -> None: ...
        def stop(self) -> None: ...
        def update(self, report: TrainingReport) -> None:
            if not self.asked:
                self.asked = True
                signal.raise_signal(signal.SIGINT)

    settings: dict[str, Any] = {
        "reference": "none",
        "epochs": 3,
        "batch_size": 8,
        "points": 3,
        "device": "cpu",
    }
    cfg = FinetuneCfg(
        model=model, data=table, out=tmp_path / "parts", alpha="after", train={"log_every": 1}, **settings
    )
    stopped = finetune(cfg, Stops())
    assert stopped.run.outcome.interrupted
    assert stopped.sweep is None
    assert not (tmp_path / "parts" / "model").exists()
    resumed = tune(
        model, table, tmp_path / "parts", epochs=3, alpha="after", train={"log_every": 1}, resume="auto"
    )
    expected, found = weights(whole.run.model), weights(resumed.run.model)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_without_matplotlib_a_note_replaces_the_plot(
    model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(path: object) -> bytes:
        raise MissingExtraError("Drawing plots", "train")

    monkeypatch.setattr("oneclip.train.finetune.run.draw_alpha_sweep", missing)
    result = tune(model, table, tmp_path / "out")
    assert install_command("train") in result.notes[0]
    assert not (tmp_path / "out" / "wise_ft.png").exists()
    assert (tmp_path / "out" / "wise_ft.json").exists()


def test_it_learns_the_new_task(model: Path, table: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes"
    for i, colour in enumerate(COLOURS):
        (classes / colour).mkdir(parents=True)
        (classes / colour / "1.png").write_bytes((table.parent / f"{i}.png").read_bytes())
    result = tune(model, table, tmp_path / "out", eval_data=classes, epochs=15, lr=3e-3)
    assert result.sweep.new_score(result.sweep.at(result.sweep.chosen)) == 1.0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "lorra"}, ConfigError, "did you mean lora"),
        ({"method": "last"}, ConfigError, "number of groups of each tower is missing"),
        ({"method": "last", "last": 0}, ConfigError, "last is 0; expected at least 1"),
        ({"method": "lit", "last": 2}, ConfigError, "last is 2 and method is 'lit'"),
        ({"alpha": "middle"}, ConfigError, "alpha is 'middle'"),
        ({"method": "lora", "train": {"strategy": "fsdp"}}, ConfigError, "strategy='ddp'"),
        ({"alpha": 1.5}, ConfigError, r"alpha is 1\.5"),
        ({"points": 1}, ConfigError, "points is 1"),
        ({"held_out": 0.0}, ConfigError, r"held_out is 0\.0"),
        ({"held_out": 0.97}, DataError, "leaves . of the .* images of .* to train on"),
        ({"reference": ""}, ConfigError, "needs a reference task"),
        ({"reference": "nowhere.csv"}, DataError, "nowhere.csv does not exist"),
        ({"caption_column": "captoin"}, DataError, "no column 'captoin'; did you mean 'caption'"),
        ({"data": "shards/{000..009}.tar"}, ConfigError, "only a single table can be split"),
        ({"data": "nowhere.csv"}, DataError, "nowhere.csv does not exist"),
        ({"train": {"warmpu": 3}}, ConfigError, "warmup"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(
    model: Path, table: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    data = Path(settings.pop("data", table))
    with pytest.raises(error, match=message):
        tune(model, data, tmp_path / "out", **settings)
    assert not (tmp_path / "out" / "model").exists()


def test_a_table_too_small_to_split_is_an_error(model: Path, reference: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"old\.csv has 6 images; .* --eval-data TABLE"):
        tune(model, reference, tmp_path / "out")


def test_a_reference_table_without_its_images_is_an_error(model: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("filepath,caption\ngone.png,a picture\n")
    with pytest.raises(DataError, match=r"1 of 1 images of .*old\.csv are not in"):
        tune(model, table, tmp_path / "out", reference=tmp_path / "old.csv")


def test_a_model_without_groups_cannot_lock_some_of_them() -> None:
    from tiny_clip import TinyCLIP

    from oneclip.train.finetune.methods import adapt

    for settings in ({"method": "lit"}, {"method": "last", "last": 1}):
        with pytest.raises(ConfigError, match="TinyCLIP cannot lock groups of layers"):
            adapt(TinyCLIP(), FinetuneCfg(model="tiny", data="pairs.csv", out="out", **settings))


def test_a_method_that_leaves_nothing_to_train_is_refused() -> None:
    from oneclip.model import build_model
    from oneclip.train.finetune.methods import adapt

    model = build_model(tiny_cfg())
    model.lock_text_tower()
    with pytest.raises(ConfigError, match="leaves nothing of tiny to train"):
        adapt(model, FinetuneCfg(model="tiny", data="pairs.csv", out="out", method="lit"))


def test_the_evaluation_at_the_end_skips_the_images_that_the_training_skips(
    model: Path, table: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (PIXELS + 1, PIXELS)).save(tmp_path / "large.png")
    (tmp_path / "held_out.csv").write_text(
        f"filepath,caption\nlarge.png,black\n{table.parent / '0.png'},a red square\n"
    )
    settings = {"max_pixels": PIXELS**2, "eval_data": tmp_path / "held_out.csv"}
    result = tune(model, table, tmp_path / "out", **settings)
    assert list(result.skipped) == ["large.png"]
