"""A model and held-out pairs to a few numbers: the contrastive loss and recall at 1, 5 and 10, both ways.

Shapes: N pairs, Q queries, M candidates, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneclip.errors import ConfigError, DataError, ImageError
from oneclip.image import Preprocess, open_image
from oneclip.losses import ClipLoss
from oneclip.pairs import Pairs, present_pairs
from oneclip.train.batches import Batch, Prepare
from oneclip.train.precision import computing_in

QUERIES_AT_ONCE = 1024  # rows of the similarity matrix in memory


def recall_at_k(similarity: Tensor, k: int, targets: Tensor | None = None) -> float:
    """The share of queries whose target is among their k most similar candidates.

    A candidate that ties with the target counts as before it: a model that gives the same features to
    everything recalls nothing.

    Args:
        similarity: (Q, M).
        k: at least 1.
        targets: (Q,) column of each query's target; by default query i belongs to candidate i.
    """
    return float((ranks(similarity, targets) < k).double().mean())


def ranks(similarity: Tensor, targets: Tensor | None = None) -> Tensor:
    """(Q,) how many candidates come before, or tie with, each query's target: 0 is first."""
    if targets is None:
        targets = torch.arange(len(similarity), device=similarity.device)
    own = similarity.gather(1, targets[:, None])
    return (similarity >= own).sum(dim=1) - 1


class HeldOut:
    """An `evaluate` hook for `Trainer`: retrieval over the pairs of a table.

    Pictures that cannot be decoded are left out, and noted in `skipped`.

    Args:
        pairs: the rows; each one's partner is its only target.
        folder: what relative paths are relative to.
        preprocess: one picture to one tensor, as after training.
        prepare: what the trainer has.
        batch_size: of the towers, and of the loss.
        at: the k of the recalls.
        device: where the model is.
        precision: of the towers; similarities are computed in fp32.
        max_pixels: pictures of more are skipped.
        skip_missing: likewise files that are not there, instead of raising.
    """

    def __init__(
        self,
        pairs: Pairs,
        folder: str | Path,
        preprocess: Preprocess,
        prepare: Prepare,
        *,
        batch_size: int = 64,
        at: Sequence[int] = (1, 5, 10),
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        max_pixels: int | None = None,
        skip_missing: bool = False,
    ) -> None:
        if batch_size < 1 or min(at) < 1:
            raise ConfigError(
                f"batch_size and the k of recalls are at least 1; found {batch_size} and {tuple(at)}"
            )
        self.skipped: dict[str, str] = {}
        self.pairs = present_pairs(pairs, Path(folder), self.skipped if skip_missing else None)
        self.folder, self.preprocess, self.prepare = Path(folder), preprocess, prepare
        self.batch_size, self.at = batch_size, [k for k in at if k < len(self.pairs)] or [1]
        self.device, self.precision, self.max_pixels = torch.device(device), precision, max_pixels

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Evaluate a model, which is in evaluation mode.

        Returns:
            `loss`, and `text_to_image_recall@k` and `image_to_text_recall@k` for each k below N.

        Raises:
            DataError: if no picture can be decoded.
        """
        losses, images, texts, loss_fn = [], [], [], ClipLoss()
        for start in range(0, len(self.pairs), self.batch_size):
            batch = self._batch(start)
            if batch is None:
                continue
            with computing_in(self.precision, self.device):
                image, text = model.encode_image(batch.images), model.encode_text(batch.texts)  # type: ignore[operator]
            images.append(F.normalize(image.float(), dim=-1))
            texts.append(F.normalize(text.float(), dim=-1))
            scale = model.logit_scale.float().exp()  # type: ignore[operator]
            losses.append(len(image) * loss_fn(images[-1], texts[-1], scale))
        if not images:
            raise DataError(f"none of the {len(self.pairs)} pictures of {self.pairs.name} can be read")
        image, text = torch.cat(images), torch.cat(texts)
        results = {"loss": float(sum(losses)) / len(image)}
        results |= {f"text_to_image_recall@{k}": v for k, v in _recalls(text, image, self.at).items()}
        results |= {f"image_to_text_recall@{k}": v for k, v in _recalls(image, text, self.at).items()}
        return results

    def _batch(self, start: int) -> Batch | None:
        images, captions = [], []
        rows = slice(start, start + self.batch_size)
        for name, caption in zip(self.pairs.pictures[rows], self.pairs.captions[rows], strict=True):
            try:
                images.append(self.preprocess(open_image(self.folder / name, max_pixels=self.max_pixels)))
            except ImageError as error:
                self.skipped[name] = str(error)
            else:
                captions.append(caption)
        if not images:
            return None
        batch = self.prepare.on_host(Batch(torch.stack(images), captions))
        return self.prepare.on_device(batch, self.device)


def _recalls(queries: Tensor, candidates: Tensor, at: Sequence[int]) -> dict[int, float]:
    parts = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = queries[start : start + QUERIES_AT_ONCE]
        targets = torch.arange(start, start + len(part), device=part.device)
        parts.append(ranks(part @ candidates.T, targets))
    rank = torch.cat(parts)
    return {k: float((rank < k).double().mean()) for k in at}
