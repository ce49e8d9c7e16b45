"""Drop-in replacement for open_clip_torch 3.3.0, built on OneCLIP."""

from open_clip import hf_configs as hf_configs  # modules that programs reach as attributes
from open_clip import hf_model as hf_model
from open_clip import modified_resnet as modified_resnet
from open_clip import pos_embed as pos_embed
from open_clip import timm_model as timm_model
from open_clip import torchscript as torchscript  # lets torch.jit.script compile the models
from open_clip import transformer as transformer
from open_clip.coca_model import CoCa
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.factory import (
    add_model_config,
    create_loss,
    create_model,
    create_model_and_transforms,
    create_model_from_pretrained,
    get_model_config,
    get_tokenizer,
    list_models,
    load_checkpoint,
)
from open_clip.loss import ClipLoss, CoCaLoss, DistillClipLoss
from open_clip.model import (
    CLIP,
    CLIPTextCfg,
    CLIPVisionCfg,
    CustomTextCLIP,
    convert_weights_to_fp16,
    convert_weights_to_lp,
    get_cast_dtype,
    get_input_dtype,
    get_model_preprocess_cfg,
    get_model_tokenize_cfg,
    set_model_preprocess_cfg,
    trace_model,
)
from open_clip.openai import list_openai_models, load_openai_model
from open_clip.pretrained import (
    download_pretrained,
    download_pretrained_from_url,
    get_pretrained_cfg,
    get_pretrained_url,
    is_pretrained_cfg,
    list_pretrained,
    list_pretrained_models_by_tag,
    list_pretrained_tags_by_model,
)
from open_clip.push_to_hf_hub import push_pretrained_to_hf_hub, push_to_hf_hub
from open_clip.tokenizer import SimpleTokenizer, decode, tokenize
from open_clip.transform import AugmentationCfg, image_transform
from open_clip.version import __version__
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
    "CoCa",
    "CoCaLoss",
    "CustomTextCLIP",
    "DistillClipLoss",
    "SimpleTokenizer",
    "__version__",
    "add_model_config",
    "build_zero_shot_classifier",
    "build_zero_shot_classifier_legacy",
    "convert_weights_to_fp16",
    "convert_weights_to_lp",
    "create_loss",
    "create_model",
    "create_model_and_transforms",
    "create_model_from_pretrained",
    "decode",
    "download_pretrained",
    "download_pretrained_from_url",
    "get_cast_dtype",
    "get_input_dtype",
    "get_model_config",
    "get_model_preprocess_cfg",
    "get_model_tokenize_cfg",
    "get_pretrained_cfg",
    "get_pretrained_url",
    "get_tokenizer",
    "image_transform",
    "is_pretrained_cfg",
    "list_models",
    "list_openai_models",
    "list_pretrained",
    "list_pretrained_models_by_tag",
    "list_pretrained_tags_by_model",
    "load_checkpoint",
    "load_openai_model",
    "push_pretrained_to_hf_hub",
    "push_to_hf_hub",
    "set_model_preprocess_cfg",
    "tokenize",
    "trace_model",
]
