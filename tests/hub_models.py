"""Small random models as the files of hub repositories: file names to contents."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load, save
from tiny import PIXELS, tiny_cfg
from tokenizers import Tokenizer, models, pre_tokenizers

from oneclip.checkpoint import ConvertibleModel, convert
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.model import build_model

WORDS = ["<pad>", "<unk>", "a", "photo", "of", "the", "cat", "dog", "sun"]
WORDS_REPO, BERT_REPO = "own/words", "own/bert"


def siglip_cfg() -> ModelCfg:
    """Make a SigLIP whose tokenizer is in another repository."""
    vision = CLIPVisionCfg(
        layers=1, width=32, head_width=16, patch_size=16, image_size=PIXELS, pool_type="map"
    )
    text = CLIPTextCfg(
        context_length=8,
        vocab_size=len(WORDS),
        hf_tokenizer_name=WORDS_REPO,
        tokenizer_kwargs={"clean": "canonicalize"},
        width=32,
        heads=2,
        layers=1,
        no_causal_mask=True,
        proj_bias=True,
        pool_type="last",
        norm_kwargs={"eps": 1e-6},
    )
    return ModelCfg(32, vision, text, custom_text=True, init_logit_bias=-10.0)


@cache
def clip(seed: int = 0) -> dict[str, bytes]:
    """Make a CLIP in open_clip's format, with CLIP's own tokenizer."""
    return _exported(tiny_cfg(), "open_clip", seed)


@cache
def transformers_clip(seed: int = 0) -> dict[str, bytes]:
    """Make a CLIP in the format of transformers."""
    vision = CLIPVisionCfg(layers=1, width=64, head_width=64, patch_size=16, image_size=PIXELS)
    cfg = tiny_cfg(vision_cfg=vision, text_cfg=CLIPTextCfg(width=64, heads=1, layers=1), quick_gelu=True)
    return _exported(cfg, "transformers", seed)


def in_shards(files: dict[str, bytes]) -> dict[str, bytes]:
    """Make a CLIP in the format of transformers, with two weight files and an index."""
    tensors = load(files["model.safetensors"])
    parts = {"model-1.safetensors": list(tensors)[::2], "model-2.safetensors": list(tensors)[1::2]}
    index = {"weight_map": {name: part for part, names in parts.items() for name in names}}
    rest = {name: data for name, data in files.items() if name != "model.safetensors"}
    return (
        rest
        | {part: save({name: tensors[name] for name in names}) for part, names in parts.items()}
        | {"model.safetensors.index.json": json.dumps(index).encode()}
    )


@cache
def siglip(seed: int = 0) -> dict[str, bytes]:
    """Make a SigLIP in open_clip's format, without its tokenizer."""
    cfg = siglip_cfg()
    torch.manual_seed(seed)
    pixels = PreprocessCfg(size=PIXELS, mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash")
    config = {"model_cfg": cfg.to_dict(), "preprocess_cfg": pixels.to_dict()}
    return {
        "open_clip_config.json": json.dumps(config).encode(),
        "open_clip_model.safetensors": save(build_model(cfg).state_dict()),
    }


@cache
def bert() -> dict[str, bytes]:
    """Make the configuration of an unpublished Hugging Face text tower."""
    numbers = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 12,
    }
    return {"config.json": json.dumps({"model_type": "bert", "pad_token_id": 0, **numbers}).encode()}


@cache
def with_bert() -> dict[str, bytes]:
    """Make a model with that text tower, in open_clip's format."""
    text = CLIPTextCfg(context_length=8, hf_tokenizer_name=WORDS_REPO, hf_model_name=BERT_REPO)
    cfg = ModelCfg(32, siglip_cfg().vision_cfg, text)
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(bert()["config.json"])
        torch.manual_seed(0)
        model = build_model(replace(cfg, text_cfg=replace(text, hf_model_name=folder)))
    config = {"model_cfg": cfg.to_dict(), "preprocess_cfg": PreprocessCfg(size=PIXELS).to_dict()}
    return {
        "open_clip_config.json": json.dumps(config).encode(),
        "open_clip_model.safetensors": save(model.state_dict()),
    }


@cache
def words(first: str = "a") -> dict[str, bytes]:
    """Make a tokenizer with a few words; `first` changes their order."""
    listed = sorted(WORDS, key=lambda word: (word[0] != "<", word != first))
    vocabulary = {word: number for number, word in enumerate(listed)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = {"pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"}
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """Put files into a folder of the repository."""
    return {f"{folder}/{name}": data for name, data in files.items()}


def written(files: dict[str, bytes], folder: Path) -> Path:
    """Write files to a local folder."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _exported(cfg: ModelCfg, form: str, seed: int) -> dict[str, bytes]:
    torch.manual_seed(seed)
    model = ConvertibleModel(build_model(cfg).state_dict(), cfg, PreprocessCfg(size=PIXELS))
    with TemporaryDirectory() as folder:
        convert(model, Path(folder) / "model", form)
        return {path.name: path.read_bytes() for path in (Path(folder) / "model").iterdir()}
