"""Train pocket: `python -m recipes.pocket.train --data DATA --out RUN`, DATA as `recipes.pocket.build` made it.

Three phases, each a `Trainer` of its own that resumes where it was stopped:

    words     the text tower alone learns from a sentence encoder, over captions and WordNet's nouns
    small     pictures of 32 pixels and their captions, contrastively; the words keep their teacher
    large     the same at 64 pixels
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneclip.checkpoint import save
from oneclip.config import ModelCfg
from oneclip.losses import ClipLoss
from oneclip.model import CLIP, build_model
from oneclip.text import CLIPTokenizer
from oneclip.train import Batch, Prepare, ProgressBar, TrainCfg, Trainer, latest_checkpoint
from oneclip.train.loop import Features
from recipes.pocket.batches import PocketBatches
from recipes.pocket.evaluate import evaluate_splits

MODEL = Path(__file__).with_name("model.json")
TEACHER_WIDTH = 384  # of all-MiniLM-L6-v2
SEED = 2026


@dataclass(frozen=True)
class Phase:
    """One stretch of the training."""

    name: str
    steps: int
    batch_size: int
    image_size: int  # 0: no pictures
    lr: float
    final_lr: float
    warmup: int
    colour_weight: float = 2.0  # how often colour pictures are drawn, relative to one-colour ones


PHASES = (
    Phase("words", steps=450, batch_size=768, image_size=0, lr=2e-3, final_lr=2e-4, warmup=50),
    Phase("small", steps=2400, batch_size=512, image_size=32, lr=1.5e-3, final_lr=5e-4, warmup=150),
    Phase(
        "large",
        steps=1100,
        batch_size=512,
        image_size=64,
        lr=7e-4,
        final_lr=0.0,
        warmup=50,
        colour_weight=4.0,
    ),
)


class Teacher:
    """Words and phrases with the vectors that the sentence encoder gives them, in random batches.

    Args:
        path: what `recipes.pocket.teacher` wrote.
        tokenizer: captions to ids.
        seed: of the order; a batch is a function of (seed, step).
    """

    def __init__(self, path: Path, tokenizer: CLIPTokenizer, seed: int) -> None:
        stored = np.load(path, allow_pickle=False)
        self.vectors = torch.from_numpy(stored["vectors"]).float()  # (N, 384)
        ids = tokenizer([str(text) for text in stored["texts"]], context_length=24)
        self.ids = ids.to(torch.int32)  # (N, 24), cut: a phrase of more tokens keeps its beginning
        self.seed = seed

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Ids (size, 24) and vectors (size, 384)."""
        rows = np.random.default_rng((self.seed, 7, step)).integers(len(self.ids), size=size)
        return self.ids[rows].long(), self.vectors[rows]


class WordBatches:
    """Batches without pictures: `images` are the teacher's vectors."""

    def __init__(self, teacher: Teacher, batch_size: int) -> None:
        self.teacher, self.batch_size = teacher, batch_size

    def batch(self, step: int) -> Batch:
        ids, vectors = self.teacher.batch(step, self.batch_size)
        return Batch(vectors, ids)


class PairBatches:
    """Pictures with captions, and a share of the teacher's words beside them."""

    def __init__(self, pairs: PocketBatches, teacher: Teacher, words: int) -> None:
        self.pairs, self.teacher, self.words = pairs, teacher, words

    def batch(self, step: int) -> Batch:
        images, texts = self.pairs.batch(step)
        ids, vectors = self.teacher.batch(1_000_000 + step, self.words)
        return Batch(images, texts, {"word_ids": ids, "word_vectors": vectors})


class DistilledLoss(nn.Module):
    """ClipLoss, and a projection that the teacher's vectors are compared in."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.clip = ClipLoss()
        self.to_teacher = nn.Linear(embed_dim, TEACHER_WIDTH)

    def distil(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Mean cosine distance of (N, D) features, projected, from (N, 384) vectors."""
        return (1 - F.cosine_similarity(self.to_teacher(features.float()), vectors, dim=-1)).mean()


class WordTrainer(Trainer):
    """Trains the text tower towards its teacher; the visual tower rests."""

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        with self.autocast():
            features = encode_by_length(self.model, batch.texts)
        return {"loss": self.loss_fn.distil(features, batch.images)}


class PairTrainer(Trainer):
    """Trains both towers on pairs, while words stay where their teacher put them."""

    def encode(self, batch: Batch) -> Features:
        pairs, words = batch.texts, batch.extra["word_ids"]
        width = max(pairs.shape[1], words.shape[1])
        ids = torch.cat([F.pad(part, (0, width - part.shape[1])) for part in (pairs, words)])
        with self.autocast():
            image = self.model.encode_image(batch.images)
            text = encode_by_length(self.model, ids)
        self.words = text[len(pairs) :]
        return Features(
            F.normalize(image.float(), dim=-1), text[: len(pairs)], self.model.logit_scale.exp(), None
        )

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        contrast = self.loss_fn.clip(features.image, features.text, features.logit_scale)
        words = self.loss_fn.distil(self.words, batch.extra["word_vectors"])
        return {"loss": contrast + 2 * words, "contrast": contrast.detach(), "words": words.detach()}


def encode_by_length(model: nn.Module, ids: Tensor, parts: int = 4) -> Tensor:
    """Captions (B, L) to unit features (B, D) in fp32, each with others of its length, so that little is padded."""
    order = ids.argmax(dim=1).argsort()  # the end of text is the greatest id
    features = [
        model.encode_text(ids[rows][:, : int(ids[rows].argmax(dim=1).max()) + 1])
        for rows in order.chunk(parts)
    ]
    return F.normalize(torch.cat(features)[order.argsort()].float(), dim=-1)


def build(image_size: int) -> CLIP:
    """The model of `model.json`, for pictures of another size if need be."""
    cfg = ModelCfg.from_dict(json.loads(MODEL.read_text()))
    cfg.vision_cfg.image_size = image_size or cfg.vision_cfg.image_size
    return build_model(cfg)


def carry_over(old: nn.Module, new: nn.Module) -> None:
    """Copy the weights to a model of another picture size; the pool's one cell becomes every cell."""
    state = old.state_dict()
    key = "visual.attnpool.positional_embedding"
    positions = new.state_dict()[key].shape[0]
    if state[key].shape[0] != positions:
        cells = state[key][1:].mean(dim=0, keepdim=True).expand(positions - 1, -1)
        state[key] = torch.cat([state[key][:1], cells])
    new.load_state_dict(state)


def train(data: Path, out: Path, scale: float = 1.0, device: str = "cpu") -> CLIP:
    """Run all phases that are not done yet, and give the trained model."""
    tokenizer = CLIPTokenizer()
    teacher = Teacher(data / "teacher.npz", tokenizer, SEED)
    torch.manual_seed(SEED)
    model: CLIP = build(32).to(device)
    loss_fn = DistilledLoss(model.visual.output_dim).to(device)
    for phase in PHASES:
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
    """Train one phase to its end, from its latest checkpoint if it has one."""
    cfg = TrainCfg(
        steps=max(2, round(phase.steps * scale)),
        seed=SEED,
        lr=phase.lr,
        final_lr=phase.final_lr,
        warmup=phase.warmup,
        weight_decay=0.1,
        precision="bf16",
        channels_last=phase.image_size > 0,
        prefetch=3,
        log_every=20,
        evaluate_every=400,
        checkpoint_every=200,
        keep=1,
    )

    def recall(model: nn.Module) -> Mapping[str, float]:
        return evaluate_splits(model, tokenizer, data, ("twemoji",), phase.image_size)

    common = {"loss_fn": loss_fn, "out": out, "reporter": ProgressBar(), "device": device}
    if phase.image_size:
        rates = {"colour_weight": phase.colour_weight, "in_memory": True}
        pairs = PocketBatches(data, phase.batch_size, phase.image_size, SEED, **rates)
        prepare = Prepare(lambda texts: tokenizer(texts, context_length=32))
        source = PairBatches(pairs, teacher, words=phase.batch_size // 4)
        trainer: Trainer = PairTrainer(model, source, cfg, prepare=prepare, evaluate=recall, **common)
    else:
        trainer = WordTrainer(model, WordBatches(teacher, phase.batch_size), cfg, **common)
    if latest_checkpoint(out):
        trainer.resume(out)
    outcome = trainer.fit()
    if outcome.interrupted:
        raise SystemExit(
            f"stopped at step {outcome.step} of phase {phase.name}; the same command goes on from there"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder made by recipes.pocket.build and .teacher"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the result")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps, for a trial")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    model = train(args.data, args.out, args.scale, args.device)
    cfg = json.loads(MODEL.read_text())
    save(args.out / "pocket-fp32.safetensors", model.cpu().state_dict(), {"model_cfg": json.dumps(cfg)})


if __name__ == "__main__":
    main()
