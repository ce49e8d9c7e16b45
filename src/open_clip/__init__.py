"""`open_clip`, on OneCLIP: models, loss, tokenizer and transforms under their published names."""

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.factory import create_model_and_transforms, get_tokenizer
from open_clip.loss import ClipLoss
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer, decode, tokenize
from open_clip.transform import AugmentationCfg, image_transform
from open_clip.zero_shot_classifier import build_zero_shot_classifier, build_zero_shot_classifier_legacy
from open_clip.zero_shot_metadata import (
    IMAGENET_CLASSNAMES,
    OPENAI_IMAGENET_TEMPLATES,
    SIMPLE_IMAGENET_TEMPLATES,
)

__all__ = [
    "CLIP",
    "IMAGENET_CLASSNAMES",
    "OPENAI_DATASET_MEAN",
    "OPENAI_DATASET_STD",
    "OPENAI_IMAGENET_TEMPLATES",
    "SIMPLE_IMAGENET_TEMPLATES",
    "AugmentationCfg",
    "CLIPTextCfg",
    "CLIPVisionCfg",
    "ClipLoss",
    "CustomTextCLIP",
    "SimpleTokenizer",
    "build_zero_shot_classifier",
    "build_zero_shot_classifier_legacy",
    "create_model_and_transforms",
    "decode",
    "get_tokenizer",
    "image_transform",
    "tokenize",
]
