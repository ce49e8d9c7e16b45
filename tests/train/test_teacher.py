"""Teacher of a distillation: its images and texts, and which models can be one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_cfg, write_tiny_model

import oneclip
from oneclip import checkpoint
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, PreprocessCfg
from oneclip.errors import ConfigError, UnknownModelError
from oneclip.image import Preprocess
from oneclip.model import build_model
from oneclip.train import Batch, TrainCfg
from oneclip.train.finetune.teacher import load_teacher
from oneclip.train.forward import Features, TrainingForward
from oneclip.train.initial_model import load_initial_model

SMALL = PreprocessCfg(size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """Model with larger images and other normalization than the student."""
    vision = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=64)
    path = tmp_path / "teacher.safetensors"
    torch.manual_seed(1)
    cfg = tiny_cfg(vision_cfg=vision, embed_dim=24)
    checkpoint.save_quantized(path, build_model(cfg).state_dict(), cfg, PreprocessCfg(size=64))
    return path


def test_images_are_converted_to_its_preprocessing(tmp_path: Path, teacher: Path) -> None:
    student = load_initial_model(None, str(write_tiny_model(tmp_path / "student.safetensors")))
    student.preprocess_cfg = SMALL
    pil_images = [Image.new("RGB", (80, 80), colour) for colour in ("red", "teal", "white")]
    images = torch.stack([Preprocess(SMALL)(image) for image in pil_images])
    captions = ["a red square", "a teal square", "white"]
    features = load_teacher(str(teacher), student, TrainCfg(steps=1))(
        Batch(images, student.tokenizer(captions))
    )
    model = oneclip.load(teacher, device="cpu")
    torch.testing.assert_close(
        features.image, torch.from_numpy(model.encode_images(pil_images)), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(
        features.text, torch.from_numpy(model.encode_texts(captions)), rtol=1e-3, atol=1e-4
    )
    assert features.image.shape == (3, 24)
    assert not features.image.requires_grad


def test_it_uses_the_precision_and_micro_batches_of_the_student(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = load_initial_model(None, str(write_tiny_model(tmp_path / "student.safetensors")))
    seen = []
    forward = TrainingForward.forward

    def watched(self: TrainingForward, images: torch.Tensor, texts: torch.Tensor) -> Features:
        seen.append((len(images), len(texts), torch.is_autocast_enabled("cpu")))
        return forward(self, images, texts)

    monkeypatch.setattr(TrainingForward, "forward", watched)
    batch = Batch(torch.rand(5, 3, 32, 32), student.tokenizer([f"number {i}" for i in range(5)]))
    exact = load_teacher(str(teacher), student, TrainCfg(steps=1))(batch)
    parts = load_teacher(str(teacher), student, TrainCfg(steps=1, micro_batch=2, precision="bf16"))(batch)
    assert seen == [(5, 5, False), (2, 2, True), (2, 2, True), (1, 1, True)]
    torch.testing.assert_close(parts.image, exact.image, rtol=0, atol=0.02)
    torch.testing.assert_close(parts.text, exact.text, rtol=0, atol=0.02)


def test_a_teacher_with_another_tokenizer_is_refused(tmp_path: Path, teacher: Path) -> None:
    student = load_initial_model(None, str(write_tiny_model(tmp_path / "student.safetensors")))
    longer = replace(tiny_cfg().text_cfg, context_length=100)
    student.cfg = replace(student.cfg, text_cfg=longer)
    with pytest.raises(ConfigError, match="has another tokenizer than the model"):
        load_teacher(str(teacher), student, TrainCfg(steps=1))


def test_a_missing_teacher_is_named(tmp_path: Path) -> None:
    student = load_initial_model(None, str(write_tiny_model(tmp_path / "student.safetensors")))
    with pytest.raises(UnknownModelError, match="ViT-B-23"):
        load_teacher("ViT-B-23", student, TrainCfg(steps=1))


def test_a_teacher_with_a_longer_context_is_accepted(tmp_path: Path, teacher: Path) -> None:
    text = CLIPTextCfg(width=16, heads=2, layers=2, context_length=16)
    student = load_initial_model(None, str(write_tiny_model(tmp_path / "student.safetensors", text_cfg=text)))
    ids = student.tokenizer(["a short caption"])
    features = load_teacher(str(teacher), student, TrainCfg(steps=1))(Batch(torch.zeros(1, 3, 32, 32), ids))
    expected = oneclip.load(teacher, device="cpu").encode_texts("a short caption")
    torch.testing.assert_close(features.text, torch.from_numpy(expected), rtol=1e-3, atol=1e-4)
