"""Text towers of transformers: behaviour that differs from open_clip_torch or does not exist there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_towers
import torch
import transformers
from torch import Tensor, nn

from oneclip import zoo
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.errors import (
    CheckpointError,
    ConfigError,
    DownloadError,
    OfflineError,
    ShapeError,
    TokenRangeError,
)
from oneclip.model import build_model
from oneclip.model.hf_config import config_from
from oneclip.model.hf_poolers import POOLERS, register_pooler
from oneclip.model.hf_tower import HFTextTower

KINDS = list(small_towers.TEXT)
VISION = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32)


def tower(kind: str, **options: Any) -> HFTextTower:
    """A small tower with weights whose pooled vectors differ between texts."""
    torch.manual_seed(0)
    cfg = CLIPTextCfg(**{"hf_model_pretrained": False, "hf_proj_type": "linear", **options})
    return HFTextTower(cfg, 24, {"encoder_layerdrop": 0.0, **small_towers.TEXT[kind]}).eval()


def padded(text: HFTextTower, length: int = 12) -> Tensor:
    """Ids (3, length) of texts of 3, 5 and 7 tokens."""
    ids = torch.full((3, length), text.pad_id)
    for row, count in enumerate((3, 5, 7)):
        ids[row, :count] = torch.randint(4, 80, (count,), generator=torch.Generator().manual_seed(row))
    return ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "pooler", ["mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler"]
)
def test_padding_changes_nothing(kind: str, pooler: str) -> None:
    text = tower(kind, hf_pooler_type=pooler)
    ids = padded(text)
    with torch.no_grad():
        together = text(ids)
        one_by_one = torch.cat([text(ids[row : row + 1, :count]) for row, count in enumerate((3, 5, 7))])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_on_a_device_are_not_trimmed_and_give_the_same(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tower(kind)
    ids = padded(text)
    assert text.trim(ids).shape == (3, 7)
    with torch.no_grad():
        trimmed = text(ids)
        monkeypatch.setattr(HFTextTower, "trim", lambda self, ids: ids)
        torch.testing.assert_close(text(ids), trimmed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_maximum_is_over_real_tokens(kind: str) -> None:
    text = tower(kind, hf_pooler_type="max_pooler")
    ids = padded(text)
    with torch.no_grad():
        text.proj = nn.Identity()
        for row, count in enumerate((3, 5, 7)):
            alone = torch.ones(1, count, dtype=torch.long)
            states = text.transformer(input_ids=ids[row : row + 1, :count], attention_mask=alone)
            expected = states.last_hidden_state.amax(dim=1)
            torch.testing.assert_close(text(ids)[row : row + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tower_is_the_encoder_of_transformers_own_model(kind: str) -> None:
    text = tower(kind, hf_proj_type=None) if kind == "none" else tower(kind)
    whole = transformers.AutoModel.from_config(text.config).eval()
    encoder = whole.encoder if text.config.is_encoder_decoder else whole
    missing, unexpected = encoder.load_state_dict(text.transformer.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("pooler.") for name in missing)
    ids = padded(text)
    mask = (ids != text.config.pad_token_id).long()
    with torch.no_grad():
        theirs = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        ours = text.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_of_attention_give_the_same(kind: str) -> None:
    text = tower(kind)
    cfg = CLIPTextCfg(hf_model_pretrained=False, hf_proj_type="linear")
    eager = HFTextTower(cfg, 24, {**small_towers.TEXT[kind], "attn_implementation": "eager"}).eval()
    assert eager.transformer.config._attn_implementation == "eager"
    eager.load_state_dict(text.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(text(padded(text)), eager(padded(text)), rtol=1e-4, atol=1e-5)


def test_positions_of_roberta_count_on_from_its_pad_id() -> None:
    text = tower("roberta")
    table = text.transformer.embeddings.position_embeddings.weight
    text(padded(text)).sum().backward()
    used = table.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert used == list(range(2, 9))  # of the longest caption's seven tokens


@pytest.mark.parametrize("kind", KINDS)
def test_16_bit_features_are_close_to_fp32(kind: str) -> None:
    text = tower(kind)
    ids = padded(text)
    with torch.no_grad():
        wide = text(ids)
        narrow = text.bfloat16()(ids)
    assert narrow.dtype == torch.bfloat16
    assert torch.cosine_similarity(wide, narrow.float()).min() > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_frees_the_last_groups(kind: str) -> None:
    text = tower(kind)
    text.lock(unlocked_layers=1)
    frozen = {name for name, p in text.named_parameters() if not p.requires_grad}
    assert any("embed" in name for name in frozen)
    blocks = {part for name in frozen for part in name.split(".") if part in ("0", "1")}
    assert "0" in blocks
    last = {"bert": "encoder.layer.1.", "mt5": "block.1.", "m2m_100": "layers.1."}.get(
        kind, "encoder.layer.1."
    )
    assert not any(name.startswith(f"transformer.{last}") for name in frozen)
    assert text.proj.weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_can_leave_the_norms_trainable(kind: str) -> None:
    text = tower(kind)
    text.lock(0, freeze_layer_norm=False)
    free = {name for name, p in text.transformer.named_parameters() if p.requires_grad}
    assert free
    assert all("norm" in name.lower() for name in free)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_behind_frozen_embeddings_changes_no_gradient(kind: str) -> None:
    text, gradients = tower(kind, hf_proj_type="mlp").train(), []
    for module in text.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    text.lock(1)
    for enable in (False, True):
        text.set_grad_checkpointing(enable)
        text.zero_grad()
        text(padded(text)).square().sum().backward()
        gradients.append([p.grad for p in text.parameters() if p.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)
    assert recomputes(text)
    text.set_grad_checkpointing(False)
    assert not recomputes(text)


def recomputes(text: HFTextTower) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in text.transformer.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_pretrained_weights_are_those_of_the_whole_model(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(**small_towers.TEXT[kind])
    whole = transformers.AutoModel.from_config(config).eval()
    whole.half().save_pretrained(tmp_path)
    cfg = CLIPTextCfg(hf_model_name=str(tmp_path), hf_pooler_type="mean_pooler", hf_proj_type="linear")
    text = HFTextTower(cfg, 24).eval()
    encoder = (whole.encoder if config.is_encoder_decoder else whole).state_dict()
    for name, tensor in text.transformer.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, encoder[name].float(), rtol=0, atol=0)


def test_pretrained_weights_without_a_block_are_rejected(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(**{**small_towers.TEXT["bert"], "num_hidden_layers": 1})
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(small_towers.TEXT["bert"]), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"lack 16 tensors, for example encoder\.layer\.1"):
        HFTextTower(CLIPTextCfg(hf_model_name=str(tmp_path)), 24)


def test_a_model_is_built_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.BertModel, "from_pretrained", lambda *a, **k: pytest.fail("fetched"))
    text = CLIPTextCfg(hf_model_name="hfl/rbt3", hf_proj_type="linear")
    assert text.hf_model_pretrained
    with torch.device("meta"):
        model = build_model(ModelCfg(24, VISION, text))
    assert model.vocab_size == 21128


def test_a_configuration_that_is_not_known_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"the text model's configuration: .*someone/some-bert"):
        HFTextTower(CLIPTextCfg(hf_model_name="someone/some-bert"), 24)


def test_missing_pretrained_weights_are_named(tmp_path: Path) -> None:
    name = small_towers.text_folder("roberta", tmp_path)
    with pytest.raises(DownloadError, match="the weights of the text model"):
        HFTextTower(CLIPTextCfg(hf_model_name=name), 24)


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "ONECLIP_OFFLINE"])
def test_pretrained_weights_while_the_network_is_off_are_named(
    switch: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(switch, "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        OfflineError, match=r"text model hfl/rbt3 are not on this machine.*hf download hfl/rbt3"
    ):
        HFTextTower(CLIPTextCfg(hf_model_name="hfl/rbt3"), 24)


def test_a_precision_in_a_configuration_is_that_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({**small_towers.TEXT["m2m_100"], "torch_dtype": "float16"})
    )
    text = HFTextTower(CLIPTextCfg(hf_model_name=str(tmp_path), hf_model_pretrained=False), 24)
    assert {p.dtype for p in text.parameters()} == {torch.float32}


def test_a_pooler_that_is_registered_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @register_pooler
    class LastTokenPooler(nn.Module):
        def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
            states: Tensor = x.last_hidden_state
            return states[torch.arange(len(states)), attention_mask.sum(dim=1) - 1]

    try:
        assert tower("bert", hf_pooler_type="last_token_pooler")(
            torch.ones(2, 3, dtype=torch.long)
        ).shape == (2, 24)
    finally:
        del POOLERS["last_token_pooler"]


@pytest.mark.parametrize(
    ("kind", "options", "changes", "message"),
    [
        ("bert", {"hf_pooler_type": "meen_pooler"}, {}, "did you mean mean_pooler"),
        ("bert", {"hf_proj_type": None}, {}, "width 32 with features of width 24"),
        ("bert", {"hf_proj_type": "conv"}, {}, "'linear' or 'mlp'"),
        ("bert", {}, {"model_type": "gpt2"}, "'gpt2' cannot be a text tower"),
        ("bert", {}, {"pad_token_id": None}, "pad_token_id None"),
        ("mt5", {}, {"pad_token_id": 900}, "pad_token_id 900"),
        ("bert", {}, {"hidden_size": 31}, "31|hidden"),
    ],
)
def test_an_impossible_configuration_is_explained(
    kind: str, options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    cfg = CLIPTextCfg(**{"hf_model_pretrained": False, **options})
    with pytest.raises(ConfigError, match=message):
        HFTextTower(cfg, 24, {**small_towers.TEXT[kind], **changes})


@pytest.mark.parametrize(
    ("content", "error"), [("{", CheckpointError), ("[1]", CheckpointError), (None, ConfigError)]
)
def test_a_folder_without_a_configuration_is_rejected(
    content: str | None, error: type[Exception], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(error, match=r"config\.json"):
        HFTextTower(CLIPTextCfg(hf_model_name=str(tmp_path)), 24)


@pytest.mark.parametrize(
    ("kind", "longest"), [("bert", 40), ("roberta", 38), ("mt5", None), ("m2m_100", None)]
)
def test_texts_longer_than_the_positions_are_rejected(kind: str, longest: int | None) -> None:
    text = tower(kind)
    ids = torch.full((1, longest or 60), 7)
    assert text(ids).shape == (1, 24)
    if longest is not None:
        with pytest.raises(ShapeError, match=f"L from 1 up to {longest}"):
            text(torch.full((1, longest + 1), 7))


@pytest.mark.parametrize(("kind", "expected"), [("roberta", 38), ("bert", 40), ("mt5", 77), ("m2m_100", 77)])
def test_the_context_is_as_long_as_the_positions_allow(kind: str, expected: int) -> None:
    assert tower(kind).context_length == expected
    assert tower(kind, context_length=16).context_length == 16


@pytest.mark.parametrize("wrong", [-1, small_towers.IDS])
def test_a_token_outside_the_vocabulary_is_rejected(wrong: int) -> None:
    with pytest.raises(TokenRangeError, match=f"token id {wrong}"):
        tower("mt5")(torch.tensor([[4, wrong]]))


def test_intermediates_of_texts_are_rejected() -> None:
    cfg = CLIPTextCfg(hf_model_name="hfl/rbt3")
    with torch.device("meta"):
        model = build_model(ModelCfg(24, VISION, cfg))
    with pytest.raises(ConfigError, match="does not return intermediates"):
        model.forward_intermediates(text=torch.ones(1, 4, dtype=torch.long))


def test_only_fields_that_decide_the_computation_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    make = transformers.AutoConfig.for_model

    def noted(model_type: str, **values: Any) -> Any:
        given.update(values)
        return make(model_type, **values)

    monkeypatch.setattr(transformers.AutoConfig, "for_model", noted)
    harm = {
        "num_labels": 10**7,
        "attn_implementation": "org/kernel",
        "_attn_implementation": "org/kernel",
        "auto_map": {"AutoModel": "org/code--model.Model"},
        "quantization_config": {"quant_method": "bitsandbytes"},
        "torch_dtype": "float16",
    }
    config = config_from({**small_towers.TEXT["bert"], **harm})
    assert given == {key: value for key, value in small_towers.TEXT["bert"].items() if key != "model_type"}
    assert (config.num_labels, config.hidden_size) == (2, 32)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 2**40},
        {"num_hidden_layers": 10**6},
        {"num_attention_heads": 0},
        {"vocab_size": -1},
        {"vocab_size": 1.5},
        {"vocab_size": True},
        {"hidden_dropout_prob": float("nan")},
        {"layer_norm_eps": "1e-5"},
        {"hidden_act": "org/kernel"},
        {"hidden_act": ["gelu"]},
        {"is_decoder": True},
        {"position_embedding_type": "relative_key"},
        {"model_type": ["bert"]},
    ],
)
def test_an_invalid_value_names_its_field(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        config_from({**small_towers.TEXT["bert"], **change})


@pytest.mark.parametrize("name", zoo.text_towers())
def test_all_fields_of_known_text_models_are_read(name: str) -> None:
    row = zoo.text_tower(name)
    assert row is not None
    config = config_from(row).to_dict()
    decides = {
        key: value for key, value in row.items() if key != "tie_word_embeddings"
    }  # which a tower has none of
    assert {key: config[key] for key in decides} == decides
