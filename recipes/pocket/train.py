"""Train pocket: `python -m recipes.pocket.train --data DATA --out RUN`, DATA as `recipes.pocket.build` made it.

Each phase has its own `Trainer`, which resumes where it stopped:

    words     the text tower alone learns from a sentence encoder, over captions and WordNet's nouns
    small     images of 32 pixels and their captions, contrastively; words keep their teacher
    large     the same at 64 pixels
    described the same with a second caption that does not name the image: keywords, or the Unicode subgroup
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneclip.checkpoint import load, save
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.model import CLIP, build_model
from oneclip.text import CLIPTokenizer
from oneclip.train import (
    Batch,
    Features,
    Prepare,
    ProgressBar,
    Stepper,
    TrainCfg,
    Trainer,
    latest_checkpoint,
)
from recipes.pocket.batches import PocketBatches
from recipes.pocket.evaluate import evaluate_splits
from recipes.pocket.evaluation_sets import KEYWORDS, SUBGROUPS
from recipes.pocket.feeding import CONTEXT, PairBatches, Teacher, WordBatches
from recipes.pocket.objective import DistilledLoss, descriptions_loss
from recipes.pocket.phases import PHASES, Phase
from recipes.pocket.side_by_side import side_by_side

MODEL = Path(__file__).with_name("model.json")
SEED = 2026


class WordStepper(Stepper):
    """Step that trains the text tower towards its teacher; the image tower is unused."""

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        with self.autocast():
            features = encode_by_length(self.model, batch.texts)
        return {"loss": self.loss_fn.distil(features, batch.images)}


class PairStepper(Stepper):
    """Step that trains both towers on pairs, while words keep the embeddings of their teacher.

    Args:
        args, options: of `Stepper`.
        phase: weights of the losses.
    """

    def __init__(self, *args: Any, phase: Phase, **options: Any) -> None:
        super().__init__(*args, **options)
        self.phase = phase
        self.pool = ThreadPoolExecutor(2) if self.device.type == "cpu" else None

    def encode(self, batch: Batch) -> Features:
        parts = [batch.texts, batch.extra["word_ids"]]
        if self.phase.description:
            parts.append(batch.extra["description_ids"])
        width = max(part.shape[1] for part in parts)
        ids = torch.cat([F.pad(part, (0, width - part.shape[1])) for part in parts])
        image, text = self.encode_both(batch.images, ids)
        pairs, self.words, *rest = text.split([len(part) for part in parts])
        self.descriptions = rest[0] if rest else None
        return Features(image, pairs, self.model.logit_scale.exp(), None)

    def encode_both(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalized fp32 features of images and texts; on a CPU each tower has its own thread."""

        def image_tower() -> Tensor:
            with self.autocast():
                return F.normalize(self.model.encode_image(images).float(), dim=-1)

        def text_tower() -> Tensor:
            with self.autocast():
                return encode_by_length(self.model, ids)

        if self.pool is None:
            return image_tower(), text_tower()
        with self.autocast():  # the choice of an attention kernel is global, so both threads share it
            return side_by_side((image_tower, text_tower), self.pool)

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        contrast = self.loss_fn.clip(features.image, features.text, features.logit_scale)
        words = self.loss_fn.distil(self.words, batch.extra["word_vectors"])
        parts = {"contrast": contrast, "words": words}
        loss = contrast + 2 * words
        if self.descriptions is not None:
            fits = batch.extra["owners"], batch.extra["also_fits"]
            described = descriptions_loss(features.image, self.descriptions, features.logit_scale, *fits)
            loss = loss + self.phase.description * described
            parts["described"] = described
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}


def encode_by_length(model: nn.Module, ids: Tensor, parts: int = 4) -> Tensor:
    """Encode (B, L) token ids to normalized (B, D) fp32 features, in groups of similar length to save padding."""
    order = ids.argmax(dim=1).argsort()  # the end-of-text token has the largest id
    features = [
        model.encode_text(ids[rows][:, : int(ids[rows].argmax(dim=1).max()) + 1])
        for rows in order.chunk(parts)
    ]
    return F.normalize(torch.cat(features)[order.argsort()].float(), dim=-1)


def build(image_size: int) -> CLIP:
    """Build the model of `model.json`, optionally for another image size."""
    cfg = ModelCfg.from_dict(json.loads(MODEL.read_text()))
    cfg.vision_cfg.image_size = image_size or cfg.vision_cfg.image_size
    return build_model(cfg)


def carry_over(old: nn.Module, new: nn.Module) -> None:
    """Copy the weights to a model of another image size; the only cell of the attention pool is repeated."""
    state = old.state_dict()
    key = "visual.attnpool.positional_embedding"
    positions = new.state_dict()[key].shape[0]
    if state[key].shape[0] != positions:
        cells = state[key][1:].mean(dim=0, keepdim=True).expand(positions - 1, -1)
        state[key] = torch.cat([state[key][:1], cells])
    new.load_state_dict(state)


@torch.no_grad()
def start_from(weights: str, teacher: Teacher, loss_fn: DistilledLoss) -> CLIP:
    """Load a model, and fit the projection to the teacher to it."""
    model = build(0)
    model.load_state_dict(load(weights, device="cpu").model.state_dict())
    ids, vectors = teacher.batch(0, 4096)
    loss_fn.fit(encode_by_length(model.eval(), ids), vectors)
    return model.train()


def train(
    data: Path,
    out: Path,
    scale: float = 1.0,
    device: str = "cpu",
    weights: str | None = None,
    phases: Sequence[Phase] = PHASES,
) -> CLIP:
    """Run all unfinished phases, and return the trained model.

    Args:
        weights: initial weights of the first phase; None: random weights.
        others: as on the command line.
    """
    tokenizer = CLIPTokenizer()
    teacher = Teacher(data / "teacher.npz", tokenizer, SEED)
    torch.manual_seed(SEED)
    loss_fn = DistilledLoss(build(32).visual.output_dim)
    model = start_from(weights, teacher, loss_fn) if weights else build(32)
    model, loss_fn = model.to(device), loss_fn.to(device)
    for phase in phases:
        if phase.image_size and phase.image_size != model.visual.image_size:
            larger = build(phase.image_size).to(device)
            carry_over(model, larger)
            model = larger
        run_phase(phase, model, loss_fn, teacher, tokenizer, data, out / phase.name, scale, device)
    return model


def run_phase(
    phase: Phase,
    model: CLIP,
    loss_fn: DistilledLoss,
    teacher: Teacher,
    tokenizer: CLIPTokenizer,
    data: Path,
    out: Path,
    scale: float,
    device: str,
) -> None:
    """Train one phase to its end, resuming from its latest checkpoint if there is one."""
    seed = SEED + [known.name for known in PHASES].index(phase.name)
    cfg = TrainCfg(
        steps=max(2, round(phase.steps * scale)),
        seed=seed,
        lr=phase.lr,
        final_lr=phase.final_lr,
        warmup=phase.warmup,
        weight_decay=0.1,
        precision="bf16",
        ema_decay=phase.average,
        channels_last=phase.image_size > 0,
        prefetch=3,
        log_every=20,
        evaluate_every=100,
        checkpoint_every=50,
        keep_checkpoints=2,
    )

    def recall(model: nn.Module) -> Mapping[str, float]:
        watched = ("twemoji", KEYWORDS, SUBGROUPS)
        return evaluate_splits(model, tokenizer, data, watched, phase.image_size)

    common = {"loss_fn": loss_fn, "out": out, "reporter": ProgressBar(), "device": device}
    if phase.image_size:
        pairs = PocketBatches(
            data,
            phase.batch_size,
            phase.image_size,
            seed,
            colour_weight=phase.colour_weight,
            emoji_weight=phase.emoji_weight,
            mixer=phase.mixer,
            describer=phase.describer,
            augmentation=phase.augmentation,
            in_memory=True,
        )
        prepare = Prepare(
            lambda texts: tokenizer(texts, context_length=CONTEXT), PreprocessCfg(), crop_texts=True
        )
        described = phase.description > 0
        source = PairBatches(pairs, teacher, phase.batch_size // 4, tokenizer, described)
        make_stepper = partial(PairStepper, phase=phase)
        trainer = Trainer(
            model, source, cfg, prepare=prepare, evaluate=recall, make_stepper=make_stepper, **common
        )
    else:
        source = WordBatches(teacher, phase.batch_size)
        trainer = Trainer(model, source, cfg, make_stepper=WordStepper, **common)
    if latest_checkpoint(out):
        trainer.resume(out)
    outcome = trainer.fit()
    if outcome.interrupted:
        raise SystemExit(
            f"stopped at step {outcome.step} of phase {phase.name}; run the same command to resume"
        )
    with trainer.averaged():
        state = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(state)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder made by recipes.pocket.build and .teacher"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the result")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the steps, for a trial")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--weights", help="initial weights: a name or file for oneclip.load")
    names = [phase.name for phase in PHASES]
    parser.add_argument("--first", choices=names, default=names[0], help="first phase to run, with --weights")
    args = parser.parse_args()
    if (args.first != names[0]) != (args.weights is not None):
        parser.error(
            "use --weights and --first together: the phases before --first are replaced by --weights"
        )
    phases = PHASES[names.index(args.first) :]
    model = train(args.data, args.out, args.scale, args.device, args.weights, phases)
    cfg = json.loads(MODEL.read_text())
    save(args.out / "pocket-fp32.safetensors", model.cpu().state_dict(), {"model_cfg": json.dumps(cfg)})


if __name__ == "__main__":
    main()
