"""Programs like those in OpenAI's README: zero-shot, a dataset of labelled images, a linear probe."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from small_clip import save_archive
from torch.utils.data import DataLoader, Dataset

import clip

CLASSES = ["circle", "square", "stripe"]


class Shapes(Dataset):
    """Dataset of labelled images, drawn on demand, like the datasets of torchvision."""

    classes = CLASSES

    def __init__(self, count: int, transform=None) -> None:
        self.count, self.transform = count, transform

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        label, rng = index % 3, np.random.default_rng(index)
        image = Image.new("RGB", (40, 36), tuple(int(c) for c in rng.integers(150, 255, 3)))
        left, top = (int(v) for v in rng.integers(2, 12, 2))
        draw, box, ink = ImageDraw.Draw(image), (left, top, left + 20, top + 18), (20, 30, 40)
        if label == 0:
            draw.ellipse(box, fill=ink)
        elif label == 1:
            draw.rectangle(box, fill=ink)
        else:
            for x in range(0, 40, 6):
                draw.line((x, 0, x, 36), fill=ink, width=2)
        return (self.transform(image) if self.transform else image), label


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a small model where `clip.load("ViT-B/32")` expects the downloaded one."""
    save_archive(tmp_path / "ViT-B-32.pt")
    monkeypatch.setattr(clip.clip, "_download", lambda url, root=None: str(tmp_path / Path(url).name))
    return


@pytest.mark.usefixtures("published")
def test_usage_compares_an_image_with_texts(tmp_path: Path) -> None:
    Shapes(1)[0][0].save(tmp_path / "image.png")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, preprocess = clip.load("ViT-B/32", device=device)
    image = preprocess(Image.open(tmp_path / "image.png")).unsqueeze(0).to(device)
    text = clip.tokenize(["a diagram", "a dog", "a cat"]).to(device)
    with torch.no_grad():
        image_features, text_features = model.encode_image(image), model.encode_text(text)
        logits_per_image, _ = model(image, text)
        probs = logits_per_image.softmax(dim=-1).cpu().numpy()
    assert image_features.shape == (1, 32)
    assert text_features.shape == (3, 32)
    assert probs.shape == (1, 3)
    assert probs.sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.usefixtures("published")
def test_zero_shot_prediction_ranks_the_classes_of_a_dataset() -> None:
    model, preprocess = clip.load("ViT-B/32", "cpu")
    shapes = Shapes(6)
    image, _ = shapes[3]
    image_input = preprocess(image).unsqueeze(0)
    text_inputs = torch.cat([clip.tokenize(f"a photo of a {c}") for c in shapes.classes])
    with torch.no_grad():
        image_features, text_features = model.encode_image(image_input), model.encode_text(text_inputs)
    image_features /= image_features.norm(dim=-1, keepdim=True)
    text_features /= text_features.norm(dim=-1, keepdim=True)
    similarity = (100.0 * image_features @ text_features.T).softmax(dim=-1)
    values, indices = similarity[0].topk(3)
    assert sorted(CLASSES[i] for i in indices) == CLASSES
    assert float(values.sum()) == pytest.approx(1)


def features_of(model: torch.nn.Module, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    features, labels = [], []
    with torch.no_grad():
        for images, batch_labels in DataLoader(dataset, batch_size=16):
            features.append(model.encode_image(images))
            labels.append(batch_labels)
    return torch.cat(features), torch.cat(labels)


@pytest.mark.usefixtures("published")
def test_a_linear_probe_learns_from_the_features() -> None:
    model, preprocess = clip.load("ViT-B/32", "cpu")
    train_features, train_labels = features_of(model, Shapes(60, transform=preprocess))
    test_features, test_labels = features_of(model, Shapes(60, transform=preprocess))
    probe = torch.nn.Linear(32, 3)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(probe(train_features), train_labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    accuracy = (probe(test_features).argmax(dim=-1) == test_labels).float().mean()
    assert accuracy > 0.7  # chance is a third
