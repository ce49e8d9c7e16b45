"""The published ViT-B/32 on the image of its README, if both files are available."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import clip

VARIABLES = {
    "ONECLIP_VITB32": "the published ViT-B-32.pt",
    "ONECLIP_CLIP_PNG": "CLIP.png of OpenAI's repository",
}
EXPECTED = [0.9927937, 0.00421068, 0.00299572]  # https://github.com/openai/CLIP


@pytest.fixture
def files() -> list[Path]:
    for variable, what in VARIABLES.items():
        if not os.environ.get(variable):
            pytest.skip(f"set {variable} to the path of {what}")
        if not Path(os.environ[variable]).is_file():
            pytest.fail(f"{variable} is {os.environ[variable]}, which is not a file")
    return [Path(os.environ[variable]) for variable in VARIABLES]


@pytest.mark.parametrize("jit", [False, True])
def test_the_published_model_gives_the_published_probabilities(files: list[Path], jit: bool) -> None:
    model, preprocess = clip.load(files[0], device="cpu", jit=jit)
    image = preprocess(Image.open(files[1])).unsqueeze(0)
    with torch.no_grad():
        per_image, _ = model(image, clip.tokenize(["a diagram", "a dog", "a cat"]))
    assert per_image.softmax(dim=-1)[0].tolist() == pytest.approx(EXPECTED, abs=1e-3)
