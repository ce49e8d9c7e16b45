"""The loop learns, and a resumed run equals an uninterrupted one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tiny_clip import Pairs, TinyCLIP
from torch import nn

from oneclip.errors import CheckpointError, CheckpointMismatchError, ConfigError, OutputError, TrainingError
from oneclip.losses import ClipLoss
from oneclip.train import (
    Batch,
    Features,
    Objective,
    Prepare,
    Stepper,
    TrainCfg,
    Trainer,
    World,
    latest_checkpoint,
)
from oneclip.train.checkpointing.best import BestTracker
from oneclip.train.reporting.metrics import MetricsFile
from tests.train.together import Share, tiny_model


def make(run: Path | None = None, **settings: object) -> Trainer:
    torch.manual_seed(0)
    values = {"steps": 12, "lr": 1e-2, "warmup": 3, "log_every": 1, **settings}
    return Trainer(TinyCLIP(), Pairs(), TrainCfg(**values), out=run)  # type: ignore[arg-type]


def logged(run: Path, key: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def test_sixteen_pairs_are_learned() -> None:
    trainer = Trainer(TinyCLIP(dropout=0.0), Pairs(16), TrainCfg(steps=60, lr=3e-2, warmup=5))
    batch = trainer.prepare.on_device(Pairs(16).batch(0), torch.device("cpu"))
    before = float(trainer.stepper.training_step(batch)["loss"].detach())
    trainer.fit()
    after = float(trainer.stepper.training_step(batch)["loss"].detach())
    assert before > 1.5
    assert after < 0.1


def test_a_resumed_run_has_the_losses_and_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    unbroken, first = make(tmp_path / "a"), make(tmp_path / "b")
    unbroken.fit()
    first.fit(until=5)
    torch.manual_seed(99)  # another process has another random state
    second = make(tmp_path / "b")
    second.resume(tmp_path / "b")
    assert second.step == 5
    second.fit()
    assert logged(tmp_path / "b") == logged(tmp_path / "a")
    theirs = unbroken.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in second.model.state_dict().items())


def test_lines_logged_after_the_checkpoint_are_cut_on_resuming(run: Path) -> None:
    trainer = make(run, checkpoint_every=4)
    trainer.fit(until=4)
    trainer.metrics.write({"step": 5, "loss": 123.0})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    again = make(run)
    again.resume(run)
    again.fit()
    assert logged(run, "step") == list(range(1, 13))


def test_the_last_checkpoints_are_kept_and_epochs_named(run: Path) -> None:
    make(run, checkpoint_every=3, steps_per_epoch=4, keep_checkpoints=2).fit()
    assert sorted(path.name for path in run.glob("*.pt")) == ["epoch_3.pt", "step_9.pt"]
    assert latest_checkpoint(run) == run / "epoch_3.pt"


def test_checkpoints_have_the_weights_under_state_dict(run: Path) -> None:
    make(run).fit()
    state = torch.load(run / "step_12.pt", weights_only=True)
    assert state["state_dict"].keys() == TinyCLIP().state_dict().keys()


def test_evaluation_runs_at_intervals_in_evaluation_mode_and_does_not_change_the_training(
    tmp_path: Path,
) -> None:
    seen = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        seen.append(model.training)
        return {"noise": float(torch.rand(()))}

    with_evaluation, without = make(tmp_path / "a", evaluate_every=5), make(tmp_path / "b")
    with_evaluation.evaluate = evaluate
    outcome = with_evaluation.fit()
    without.fit()
    assert seen == [False, False, False]  # after 5, 10 and at the end
    assert outcome.evaluation.keys() == {"noise"}
    assert logged(tmp_path / "a") == logged(tmp_path / "b")
    assert with_evaluation.model.training


def test_accumulated_gradients_are_the_mean_over_batches() -> None:
    trainer = make(grad_accum_steps=2, max_grad_norm=None, lr=0.0)
    trainer.model.eval()
    trainer.model.train = lambda mode=True: trainer.model  # type: ignore[method-assign,assignment]
    trainer.fit(until=1)
    accumulated = trainer.model.proj.weight.grad.clone()
    total = torch.zeros_like(accumulated)
    for number in (0, 1):
        trainer.model.zero_grad()
        trainer.stepper.training_step(trainer.prepare.on_device(Pairs().batch(number), torch.device("cpu")))[
            "loss"
        ].backward()
        total += trainer.model.proj.weight.grad
    torch.testing.assert_close(accumulated, total / 2)


def test_gradients_are_clipped_to_the_norm() -> None:
    trainer = make(max_grad_norm=1e-3)
    trainer.fit(until=1)
    norm = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_the_logit_scale_stays_below_its_limit() -> None:
    trainer = make()
    trainer.model.logit_scale.data.fill_(9.0)
    trainer.fit(until=1)
    assert float(trainer.model.logit_scale.detach()) == pytest.approx(math.log(100))


def test_bf16_learns_and_gives_features_in_fp32() -> None:
    trainer = make(precision="bf16", steps=30)
    features = trainer.stepper.encode(trainer.prepare.on_device(Pairs().batch(0), torch.device("cpu")))
    assert features.image.dtype == features.text.dtype == torch.float32
    assert trainer.fit().step == 30


def test_a_recipe_adds_a_loss_with_parameters_of_its_own(run: Path) -> None:
    class Distilling(ClipLoss):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 4)

    class Recipe(Stepper):
        def losses(self, features: Features, batch: Batch) -> dict[str, torch.Tensor]:
            losses = super().losses(features, batch)
            distance = (self.loss_fn.head(features.text) - batch.extra["teacher"]).square().mean()
            return {"loss": losses["loss"] + distance, "contrastive": losses["loss"], "distance": distance}

    class Source(Pairs):
        def batch(self, step: int) -> Batch:
            return super().batch(step)._replace(extra={"teacher": torch.ones(8, 4)})

    def recipe() -> Trainer:
        cfg = TrainCfg(steps=20, lr=0.1, log_every=1)
        return Trainer(TinyCLIP(), Source(), cfg, loss_fn=Distilling(), out=run, make_stepper=Recipe)

    trainer = recipe()
    trainer.fit(until=10)
    again = recipe()
    again.resume(run)
    torch.testing.assert_close(
        again.stepper.loss_fn.state_dict(), trainer.stepper.loss_fn.state_dict(), rtol=0, atol=0
    )
    again.fit()
    assert logged(run, "distance")[-1] < 0.1 * logged(run, "distance")[0]


def test_a_source_may_return_plain_tuples_of_images_and_captions() -> None:
    class Captions(Pairs):
        def batch(self, step: int) -> tuple[torch.Tensor, list[str]]:  # type: ignore[override]
            return super().batch(step).images, [f"caption {n}" for n in range(8)]

    def tokenize(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[1 + int(text.split()[1]), 63, 0, 0] for text in texts])

    assert Trainer(TinyCLIP(), Captions(), TrainCfg(steps=2), prepare=Prepare(tokenize)).fit().step == 2
    with pytest.raises(ConfigError, match="tokenizer"):
        Trainer(TinyCLIP(), Captions(), TrainCfg(steps=2)).fit()


def test_the_configured_loss_is_minimized(run: Path) -> None:
    from oneclip.losses import SigLipLoss

    model = tiny_model("sigmoid")
    trainer = Trainer(model, Share(World()), TrainCfg(steps=1, log_every=1, loss="sigmoid"), out=run)
    batch = Share(World()).batch(0)
    with torch.no_grad():
        features = trainer.stepper.encode(batch)
        expected = SigLipLoss()(features.image, features.text, features.logit_scale, features.logit_bias)
    trainer.fit()
    assert logged(run, "loss") == pytest.approx([float(expected)], rel=1e-5)
    with pytest.raises(ConfigError, match="needs a model with a logit bias"):
        Trainer(tiny_model("clip"), Share(World()), TrainCfg(steps=1, loss="sigmoid"))


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_a_custom_objective_gets_negative_texts(micro_batch: int) -> None:
    class WithWrong(Share):
        def batch(self, step: int) -> Batch:
            batch = super().batch(step)
            return batch._replace(extra={"negatives": batch.texts[:, None].roll(1, 0).repeat(1, 2, 1)})

    class Hard(Objective):
        """Cross-entropy of the right caption against two that are wrong."""

        def forward(self, features: Features, batch: Batch) -> dict[str, torch.Tensor]:
            right = (features.image * features.text).sum(-1, keepdim=True)
            wrong = torch.einsum("bd,bkd->bk", features.image, features.negatives)
            logits = features.logit_scale * torch.cat([right, wrong], 1)
            return {"loss": nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))}

    torch.manual_seed(0)
    trainer = Trainer(
        tiny_model("clip"),
        WithWrong(World()),
        TrainCfg(steps=15, lr=3e-3, micro_batch=micro_batch),
        objective=Hard(ClipLoss()),
    )
    batch = trainer.prepare.on_host(trainer.source.batch(0))
    before = float(trainer.stepper.training_step(batch)["loss"].detach())
    trainer.fit()
    assert float(trainer.stepper.training_step(batch)["loss"].detach()) < before - 0.1
    with torch.no_grad():
        features = trainer.stepper.encode(batch)
    for number in range(2):  # each is given the caption of the pair before it
        torch.testing.assert_close(features.negatives[:, number], features.text.roll(1, 0))


def test_a_coca_learns_captions(run: Path) -> None:
    model, batch = tiny_model("coca"), Share(World()).batch(0)
    with torch.no_grad():
        output = model(batch.images, batch.texts)
        expected = nn.functional.cross_entropy(output["logits"].mT, output["labels"], ignore_index=0)
    Trainer(model, Share(World()), TrainCfg(steps=30, lr=3e-3, log_every=1), out=run).fit()
    captions = logged(run, "caption")
    assert captions[0] == pytest.approx(float(expected), rel=1e-5)
    assert captions[-1] < captions[0] - 0.1


@pytest.mark.parametrize(("start", "kept"), [(math.log(120), 120.0), (math.log(50), 100.0)])
def test_a_temperature_is_limited_but_never_below_its_start(start: float, kept: float) -> None:
    trainer = Trainer(TinyCLIP(), Pairs(), TrainCfg(steps=1, lr=0.0, weight_decay=0.0))
    trainer.model.logit_scale.data.fill_(start)
    trainer = Trainer(trainer.model, Pairs(), TrainCfg(steps=1, lr=0.0))
    trainer.fit()
    assert float(trainer.model.logit_scale.detach().exp()) == pytest.approx(math.exp(start))
    trainer = Trainer(trainer.model, Pairs(), TrainCfg(steps=2, lr=0.0))
    trainer.model.logit_scale.data.add_(1.0)
    trainer.fit()
    assert float(trainer.model.logit_scale.detach().exp()) == pytest.approx(kept)


def test_a_frozen_temperature_is_untouched() -> None:
    model = TinyCLIP()
    model.logit_scale.data.fill_(5.0)
    model.logit_scale.requires_grad_(False)
    Trainer(model, Pairs(), TrainCfg(steps=1)).fit()
    assert float(model.logit_scale) == 5.0


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoints(run: Path) -> None:
    trainer = make(run, checkpoint_every=2, log_every=5)
    trainer.fit(until=4)
    trainer.model.proj.weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="learning rate"):
        trainer.fit()
    assert latest_checkpoint(run) == run / "step_4.pt"


def test_resuming_with_other_settings_of_the_data_is_refused(run: Path) -> None:
    make(run).fit(until=2)
    with pytest.raises(ConfigError, match="seed = 0, and this run has 7"):
        make(run, seed=7).resume(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 1e-3}, "lr: 0.01, now 0.001"),
        ({"weight_decay": 0.0, "steps": 20}, "steps: 12, now 20; weight_decay: 0.2, now 0.0"),
        ({"schedule": "constant"}, "schedule: cosine, now constant"),
    ],
)
def test_resuming_with_settings_that_change_the_losses_is_refused_unless_requested(
    run: Path, changes: dict[str, object], message: str
) -> None:
    make(run).fit(until=2)
    with pytest.raises(ConfigError, match=f"was trained with {message}: .*--allow-changes"):
        make(run, **changes).resume(run)
    assert make(run, **changes).resume(run, allow_changes=True) == message.split("; ")


def test_resuming_with_settings_that_change_no_loss_says_which(run: Path) -> None:
    make(run).fit(until=2)
    trainer = make(run, log_every=3, keep_checkpoints=1)
    assert trainer.resume(run) == ["log_every: 1, now 3", "keep_checkpoints: 3, now 1"]
    make(run / "constant", schedule="constant").fit(until=2)
    assert make(run / "constant", schedule="constant", steps=20).resume(run / "constant") == [
        "steps: 12, now 20"
    ]


class Falling:
    """Evaluation that is best at step 6, and fails at a chosen step."""

    def __init__(self, fail_at: int = 0) -> None:
        self.steps: list[int] = []
        self.fail_at = fail_at
        self.trainer: Trainer

    def __call__(self, model: nn.Module) -> dict[str, float]:
        step = self.trainer.step
        self.steps.append(step)
        if step == self.fail_at:
            raise RuntimeError("the machine went down")
        return {"score": 10.0 - abs(step - 6), "val_loss": abs(step - 6.0)}


def evaluated(run: Path, fail_at: int = 0, **settings: object) -> tuple[Trainer, Falling]:
    evaluate = Falling(fail_at)
    values = {"steps": 20, "lr": 1e-2, "evaluate_every": 2, "checkpoint_every": 2, **settings}
    torch.manual_seed(0)
    trainer = Trainer(TinyCLIP(), Pairs(), TrainCfg(**values), out=run, evaluate=evaluate)  # type: ignore[arg-type]
    evaluate.trainer = trainer
    return trainer, evaluate


def test_a_checkpoint_is_saved_before_the_evaluation_and_a_resumed_run_repeats_a_missed_one(
    run: Path,
) -> None:
    trainer, _ = evaluated(run, fail_at=4)
    with pytest.raises(RuntimeError, match="went down"):
        trainer.fit()
    assert latest_checkpoint(run) == run / "step_4.pt"
    again, evaluate = evaluated(run)
    again.resume(run)
    again.fit(until=6)
    assert evaluate.steps == [4, 6]
    assert [line["score"] for line in logged(run, "evaluation")] == [6.0, 8.0, 10.0]
    finished, evaluate = evaluated(run)
    finished.resume(run)
    assert finished.fit(until=6).evaluation == {"score": 10.0, "val_loss": 0.0}
    assert not evaluate.steps  # it is in metrics.jsonl


@pytest.mark.parametrize("figure", ["score", "val_loss"])
def test_the_best_checkpoint_is_kept_and_training_stops_early(run: Path, figure: str) -> None:
    settings = {"keep_best": True, "patience": 2, "best_metric": figure, "keep_checkpoints": 1}
    trainer, evaluate = evaluated(run, **settings)
    outcome = trainer.fit()
    assert (outcome.step, outcome.interrupted, outcome.best_step) == (10, False, 6)
    assert evaluate.steps == [2, 4, 6, 8, 10]
    trainer.take_best()
    at_six, _ = evaluated(run / "other", checkpoint_every=0)
    at_six.fit(until=6)
    torch.testing.assert_close(trainer.model.state_dict(), at_six.model.state_dict(), rtol=0, atol=0)
    assert trainer.evaluation["score"] == 10.0
    again, evaluate = evaluated(run, **settings)
    again.resume(run)
    assert again.fit().step == 10  # it had stopped early
    assert not evaluate.steps


def test_a_figure_that_is_not_a_number_is_never_the_best() -> None:
    best = BestTracker(TrainCfg(steps=3, keep_best=True, best_metric="val_loss"), evaluate=object())
    assert best.update(1, {"val_loss": float("nan")})
    assert best.update(2, {"val_loss": 3.0})
    assert not best.update(3, {"val_loss": float("nan")})
    assert best.step == 2


def test_the_best_needs_an_evaluation_and_its_figure(run: Path) -> None:
    with pytest.raises(ConfigError, match="need held-out data; set eval_data"):
        make(run, patience=3)
    trainer, _ = evaluated(run, keep_best=True, best_metric="acc1")
    with pytest.raises(
        ConfigError, match=r"no metric 'acc1' \(best_metric\); available: 'score', 'val_loss'"
    ):
        trainer.fit()
    with pytest.raises(ConfigError, match="need the name of one metric"):
        evaluated(run, keep_best=True)


def test_a_gradient_that_did_not_fit_into_fp16_is_null_in_the_metrics(run: Path) -> None:
    metrics = MetricsFile(run / "metrics.jsonl")
    metrics.write({"step": 1, "grad_norm": float("nan"), "loss": 2.0, "evaluation": {"acc1": float("inf")}})
    text = (run / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "grad_norm": null, "loss": 2.0, "evaluation": {"acc1": null}}\n'


def test_resuming_another_model_names_what_does_not_fit_and_loads_nothing(run: Path) -> None:
    make(run).fit(until=2)
    trainer = make(run)
    trainer.model.proj = nn.Linear(3 * 8 * 8, 17)
    before = trainer.model.token_embedding.weight.clone()
    with pytest.raises(CheckpointMismatchError, match=r"proj\.weight"):
        trainer.resume(run)
    assert torch.equal(before, trainer.model.token_embedding.weight)


def test_a_damaged_checkpoint_is_named(run: Path) -> None:
    make(run, checkpoint_every=2).fit(until=4)
    path = run / "step_4.pt"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"step_4\.pt is damaged"):
        make(run).resume(run)


def test_weights_alone_cannot_be_resumed(run: Path) -> None:
    run.mkdir()
    torch.save(TinyCLIP().state_dict(), run / "weights.pt")
    with pytest.raises(CheckpointError, match="no training state"):
        make(run).resume(run / "weights.pt")


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(run)
    trainer.fit(until=2)
    before = (run / "step_2.pt").read_bytes()

    def full(state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 704 vs 598")  # as PyTorch does

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        trainer.save()
    assert (run / "step_2.pt").read_bytes() == before
    assert not list(run.glob(".*"))
