"""Converting models: round trips in all formats, refusals, and no incomplete output."""

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_cfg

from oneclip import checkpoint, zoo
from oneclip.checkpoint.convert import FORMATS, ConvertibleModel, convert, transformers_format
from oneclip.checkpoint.formats.transformers_clip import read_config as read_clip_config
from oneclip.checkpoint.formats.transformers_clip import write_config as write_clip_config
from oneclip.checkpoint.formats.transformers_common import read_tokenizer_fields
from oneclip.checkpoint.formats.transformers_siglip import read_config, write_config
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg, PreprocessCfg
from oneclip.errors import ConfigError, OutputError
from oneclip.model import build_model

PIXELS = 32
VIT = CLIPVisionCfg(layers=1, width=64, head_width=64, patch_size=16, image_size=PIXELS)
TEXT = CLIPTextCfg(width=64, heads=1, layers=1, context_length=16)
SMALL = CLIPTextCfg(width=16, heads=2, layers=1, context_length=12, vocab_size=50)
HALF = (0.5, 0.5, 0.5)


def siglip_text(**changes: Any) -> CLIPTextCfg:
    values: dict[str, Any] = {
        "context_length": 12,
        "vocab_size": 50,
        "hf_tokenizer_name": "words",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    }
    return CLIPTextCfg(**values | changes)


def siglip(act: str) -> ModelCfg:
    vision = CLIPVisionCfg(
        layers=1, width=32, head_width=16, patch_size=16, image_size=PIXELS, pool_type="map"
    )
    text = siglip_text()
    vision.act_kwargs = text.act_kwargs = {"approximate": "tanh"} if act == "tanh" else None
    return ModelCfg(32, vision, text, custom_text=True, init_logit_bias=-10.0)


def coca() -> ModelCfg:
    vision = CLIPVisionCfg(
        layers=1,
        width=32,
        head_width=16,
        patch_size=16,
        image_size=PIXELS,
        attentional_pool=True,
        attn_pooler_queries=8,
        attn_pooler_heads=2,
        output_tokens=True,
    )
    text = CLIPTextCfg(width=16, heads=2, layers=1, vocab_size=60, embed_cls=True, output_tokens=True)
    decoder = MultimodalCfg(width=16, heads=2, layers=1, vocab_size=60, attn_pooler_heads=2)
    return ModelCfg(16, vision, text, custom_text=True, multimodal_cfg=decoder)


def bert(folder: Path) -> ModelCfg:
    numbers = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = {"model_type": "bert", "vocab_size": 50, "pad_token_id": 0} | numbers
    (folder / "config.json").write_text(json.dumps(config))
    text = CLIPTextCfg(
        context_length=12, hf_model_name=str(folder), hf_tokenizer_name="words", hf_proj_type="linear"
    )
    text.hf_model_pretrained = False
    return ModelCfg(16, VIT, text, custom_text=True)


MODELS: dict[str, Callable[[Path], ModelCfg]] = {
    "ViT": lambda _: ModelCfg(24, VIT, TEXT),
    "QuickGELU": lambda _: ModelCfg(24, VIT, TEXT, quick_gelu=True),
    "ResNet": lambda _: ModelCfg(
        24, CLIPVisionCfg((1, 1, 1, 1), 32, image_size=PIXELS), TEXT, quick_gelu=True
    ),
    "custom block": lambda _: tiny_cfg(text_cfg=SMALL, vision_cfg=CLIPVisionCfg(1, 32, 16, scale_fc=True)),
    "custom text": lambda _: tiny_cfg(text_cfg=SMALL, custom_text=True),
    "SigLIP": lambda _: siglip("none"),
    "SigLIP 2": lambda _: siglip("tanh"),
    "CoCa": lambda _: coca(),
    "Hugging Face text": bert,
}
SUPPORTED = {  # all other models are refused
    "transformers": {"ViT", "QuickGELU", "SigLIP", "SigLIP 2"},
    "openai": {"QuickGELU", "ResNet"},
    "open_clip": set(MODELS),
    "safetensors": set(MODELS),
}
PAIRS = [(form, name) for form in FORMATS for name in MODELS]
TARGETS = {"transformers": "out", "open_clip": "out", "openai": "out.pt", "safetensors": "out.safetensors"}


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("words")
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "cat": 4, "dog": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(special | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return folder


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path, words: Path) -> ConvertibleModel:
    torch.manual_seed(0)
    (tmp_path / "text").mkdir()
    cfg = MODELS[request.param](tmp_path / "text")
    if cfg.text_cfg.hf_tokenizer_name:
        cfg.text_cfg.hf_tokenizer_name = str(words)
    pixels = PreprocessCfg(size=PIXELS)
    if cfg.init_logit_bias is not None:
        pixels = PreprocessCfg(
            size=PIXELS, mean=HALF, std=HALF, resize_mode="squash", interpolation="bilinear"
        )
    state_dict = {
        name: tensor.half() if name.endswith("token_embedding.weight") else tensor
        for name, tensor in build_model(cfg).state_dict().items()
    }
    return ConvertibleModel(state_dict, cfg, pixels)


@pytest.mark.parametrize(
    ("form", "model"), [p for p in PAIRS if p[1] in SUPPORTED[p[0]]], indirect=["model"], ids=str
)
def test_a_round_trip_gives_the_same_model(form: str, model: ConvertibleModel, tmp_path: Path) -> None:
    target = tmp_path / TARGETS[form]
    convert(model, target, form)
    again = checkpoint.load(target)
    cfg = model.cfg.to_dict()
    if form == "open_clip" and model.cfg.text_cfg.hf_model_name:  # the folder contains its configuration
        cfg["text_cfg"]["hf_model_name"] = str(target / "text_tower.json")
    assert again.cfg.to_dict() == cfg
    assert again.preprocess_cfg == model.preprocess_cfg
    tensors = again.model.state_dict()
    assert tensors.keys() == model.state_dict.keys()
    for name, tensor in model.state_dict.items():
        assert torch.equal(tensors[name], tensor.to(tensors[name].dtype)), name


@pytest.mark.parametrize(
    ("form", "model"), [p for p in PAIRS if p[1] not in SUPPORTED[p[0]]], indirect=["model"], ids=str
)
def test_a_model_that_a_format_cannot_represent_is_refused_with_the_reason(
    form: str, model: ConvertibleModel, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"transformers'|OpenAI's form"):
        convert(model, tmp_path / TARGETS[form], form)
    assert not (tmp_path / TARGETS[form]).exists()


@pytest.mark.parametrize("model", ["QuickGELU", "SigLIP"], indirect=True)
@pytest.mark.parametrize("form", ["transformers", "open_clip", "safetensors"])
def test_stored_precision_is_kept(form: str, model: ConvertibleModel, tmp_path: Path) -> None:
    target = tmp_path / TARGETS[form]
    convert(model, target, form)
    file = next(target.glob("*.safetensors")) if target.is_dir() else target
    dtypes = {str(tensor.dtype) for tensor in checkpoint.read(file).state_dict.values()}
    assert dtypes == {"torch.float32", "torch.float16"}


@pytest.mark.parametrize("model", ["SigLIP"], indirect=True)
@pytest.mark.parametrize("form", ["transformers", "open_clip"])
def test_a_folder_moves_with_its_tokenizer(form: str, model: ConvertibleModel, tmp_path: Path) -> None:
    convert(model, tmp_path / "out", form)
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    tokenizer = checkpoint.load(tmp_path / "elsewhere").tokenizer()
    assert tokenizer(["a cat"]).tolist()[0][:2] == [3, 4]


@pytest.mark.parametrize("model", ["QuickGELU"], indirect=True)
@pytest.mark.parametrize("form", FORMATS)
def test_existing_output_is_replaced_only_with_force(
    form: str, model: ConvertibleModel, tmp_path: Path
) -> None:
    target = tmp_path / TARGETS[form]
    convert(model, target, form)
    with pytest.raises(OutputError, match="it is replaced only with force=True"):
        convert(model, target, form)
    convert(model, target, form, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([target.name, "text"])


@pytest.mark.parametrize("model", ["QuickGELU"], indirect=True)
def test_a_folder_with_other_files_is_not_replaced(model: ConvertibleModel, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        convert(model, tmp_path / "out", "open_clip", force=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("model", ["QuickGELU"], indirect=True)
def test_a_failed_conversion_leaves_nothing(
    model: ConvertibleModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["oneclip.checkpoint.convert"], "save", full)
    with pytest.raises(OutputError, match="No space left"):
        convert(model, tmp_path / "out", "open_clip")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def fits_transformers(cfg: ModelCfg) -> str | None:
    """Return the class of transformers for an architecture, after a round trip of its configuration."""
    form = transformers_format(cfg)
    try:
        config = write_config(cfg) if form.name == "transformers SigLIP" else write_clip_config(cfg)
    except ConfigError:
        return None
    back = read_config(config) if form.name == "transformers SigLIP" else read_clip_config(config)
    assert read_tokenizer_fields(back, config) == cfg
    return str(config["architectures"][0])


def test_published_architectures_survive_transformers_configuration() -> None:
    fitting = Counter(
        filter(None, (fits_transformers(zoo.architecture(name)) for name in zoo.architectures()))
    )
    assert fitting == {"CLIPModel": 31, "SiglipModel": 25, "MetaClip2Model": 7}
    docs = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    for kind, count in fitting.items():
        assert re.search(rf"\b{count} as\s+`{kind}`", docs), kind


def test_openai_format_refuses_other_preprocessing(tmp_path: Path) -> None:
    cfg = ModelCfg(24, VIT, TEXT, quick_gelu=True)
    model = ConvertibleModel(build_model(cfg).state_dict(), cfg, PreprocessCfg(size=PIXELS, mean=HALF))
    with pytest.raises(ConfigError, match=r"preprocessing is fixed.*mean"):
        convert(model, tmp_path / "out.pt", "openai")
