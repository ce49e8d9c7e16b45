"""Evaluation of pocket: retrieval of held-out images by name or keywords, and classification.

`python -m recipes.pocket.evaluate --data DATA --weights FILE` prints the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneclip.config import OPENAI_MEAN, OPENAI_STD
from oneclip.text import CLIPTokenizer
from oneclip.train.evaluation import recall_at_k
from recipes.pocket.evaluation_sets import ALL_SETS, EvaluationSet, evaluation_set


def evaluate_splits(
    model: nn.Module, tokenizer: CLIPTokenizer, data: Path, names: Sequence[str], image_size: int = 64
) -> dict[str, float]:
    """Compute text-to-image recall@1 and @5 for each set, or accuracy for a set with labels."""
    results: dict[str, float] = {}
    for name in names:
        dataset = _evaluation_set(data, name)
        image, text = features(model, tokenizer, dataset, image_size)
        if dataset.classifies:
            results[f"{name}/accuracy"] = recall_at_k(image @ text.T, 1, dataset.labels)
        else:
            similarity = text @ image.T  # (M, N)
            results |= {f"{name}/recall@{k}": recall_at_k(similarity, k, dataset.labels) for k in (1, 5)}
    return results


@torch.inference_mode()
def features(
    model: nn.Module, tokenizer: CLIPTokenizer, dataset: EvaluationSet, image_size: int
) -> tuple[Tensor, Tensor]:
    """Compute normalized features of the images (N, D) and of the captions (M, D)."""
    device = model.logit_scale.device
    mean, std = (255 * torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (OPENAI_MEAN, OPENAI_STD))
    images = []
    for chunk in dataset.images.split(256):
        pixels = chunk.to(device).float()
        if image_size != pixels.shape[-1]:
            pixels = F.adaptive_avg_pool2d(pixels, image_size)
        images.append(model.encode_image((pixels - mean) / std, normalize=True))
    ids = tokenizer(list(dataset.captions))
    texts = [model.encode_text(chunk.to(device), normalize=True) for chunk in ids.split(256)]
    return torch.cat(images).cpu(), torch.cat(texts).cpu()


@lru_cache
def _evaluation_set(data: Path, name: str) -> EvaluationSet:
    return evaluation_set(data, name)


def main() -> None:
    from oneclip.checkpoint import load

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", default="pocket", help="a name or a file that oneclip.load takes")
    args = parser.parse_args()
    model = load(args.weights).model.eval()
    results = evaluate_splits(model, CLIPTokenizer(), args.data, ALL_SETS)
    for name, value in results.items():
        print(f"{name:24} {value:.3f}")


if __name__ == "__main__":
    main()
