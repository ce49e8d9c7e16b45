"""Sources of tokenizer files: beside the checkpoint, from the hub, or from its cache without a request."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Fault, Hub, in_this_process
from tiny_tokenizers import bert, roberta, siglip, vocab_txt

from oneclip.config import CLIPTextCfg
from oneclip.errors import ConfigError, DownloadError, OfflineError
from oneclip.text import CLIPTokenizer, HFTokenizer, get_tokenizer, tokenizer_files, write_tokenizer
from oneclip.text.factory import TOKENIZER_IN_MODEL_FOLDER

TEXTS = ["a photo of the dog", "", "two small cats"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with in_this_process(monkeypatch, tmp_path / "hub") as hub:
        yield hub


def content(folder: Path, prefix: str = "") -> dict[str, bytes]:
    return {prefix + path.name: path.read_bytes() for path in folder.iterdir()}


def cfg_of(name: str, **changes: object) -> CLIPTextCfg:
    return CLIPTextCfg(**{"hf_tokenizer_name": name, "context_length": 16, **changes})  # type: ignore[arg-type]


def test_a_repository_gives_its_tokenizer(hub: Hub, tmp_path: Path) -> None:
    hub.publish("some/tower", content(bert(tmp_path / "made")))
    rows = get_tokenizer(cfg_of("some/tower"))(TEXTS)
    assert rows.equal(HFTokenizer(tmp_path / "made", 16)(TEXTS))


def test_cached_files_are_used_without_a_request(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish("some/tower", content(vocab_txt(tmp_path / "made")))
    expected = get_tokenizer(cfg_of("some/tower"))(TEXTS)
    hub.requests.clear()
    for switch in ("", "1"):
        monkeypatch.setenv("HF_HUB_OFFLINE", switch)
        assert get_tokenizer(cfg_of("some/tower"))(TEXTS).equal(expected)
    assert hub.requests == []


def test_missing_files_are_reported_without_a_request_when_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"the tokenizer some/tower is not on this machine .*oneclip pull"):
        get_tokenizer(cfg_of("some/tower"))
    assert hub.requests == []


def test_a_cached_vocabulary_without_settings_is_completed(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    hub.publish("some/siglip", content(siglip(tmp_path / "made")))
    hf_hub_download("some/siglip", "tokenizer.json")
    assert get_tokenizer(cfg_of("some/siglip")).pad_token_id == 1


def test_an_interrupted_download_is_not_used_as_complete(hub: Hub, tmp_path: Path) -> None:
    hub.publish("some/siglip", content(siglip(tmp_path / "made")))
    hub.faults.append(Fault("tokenizer_config.json", method="HEAD", status=403))
    with pytest.raises(DownloadError):
        get_tokenizer(cfg_of("some/siglip"))
    assert get_tokenizer(cfg_of("some/siglip")).pad_token_id == 1


def test_the_repository_of_the_checkpoint_comes_before_the_named_one(hub: Hub, tmp_path: Path) -> None:
    hub.publish("some/named", content(bert(tmp_path / "bert")))
    hub.publish("own/model", content(roberta(tmp_path / "roberta")))
    own = HFTokenizer(tmp_path / "roberta", 16)(TEXTS)
    assert get_tokenizer(cfg_of("some/named"), "hf-hub:own/model")(TEXTS).equal(own)


def test_the_named_repository_is_used_if_the_checkpoint_has_no_tokenizer(hub: Hub, tmp_path: Path) -> None:
    hub.publish("some/named", content(bert(tmp_path / "bert")))
    hub.publish("own/model", {"open_clip_config.json": b"{}"})
    named = HFTokenizer(tmp_path / "bert", 16)(TEXTS)
    assert get_tokenizer(cfg_of("some/named"), "hf-hub:own/model")(TEXTS).equal(named)


def test_a_subfolder_and_a_revision_are_used(hub: Hub, tmp_path: Path) -> None:
    hub.publish("own/model", content(roberta(tmp_path / "roberta"), "b16/"), revision="v2")
    hub.publish("own/model", {"README.md": b""})
    own = HFTokenizer(tmp_path / "roberta", 16)(TEXTS)
    assert get_tokenizer(cfg_of("some/named"), "hf-hub:own/model/b16@v2")(TEXTS).equal(own)


def test_a_repository_without_a_tokenizer_is_named(hub: Hub) -> None:
    hub.publish("some/tower", {"README.md": b""})
    with pytest.raises(
        DownloadError, match=r"some/tower has no tokenizer that can be read; expected one of tokenizer"
    ):
        get_tokenizer(cfg_of("some/tower"))


def test_a_server_that_fails_does_not_lead_to_another_tokenizer(hub: Hub, tmp_path: Path) -> None:
    hub.publish("some/named", content(bert(tmp_path / "bert")))
    hub.publish("own/model", content(roberta(tmp_path / "roberta")))
    hub.faults.append(Fault("own/model", method="HEAD", status=403))
    with pytest.raises(DownloadError):
        get_tokenizer(cfg_of("some/named"), "hf-hub:own/model")


def test_the_model_folder_comes_before_the_hub(tmp_path: Path) -> None:
    folder = bert(tmp_path / "model")
    (folder / "open_clip_config.json").write_text("{}")
    assert set(tokenizer_files(cfg_of("some/tower"), folder)) == {"tokenizer.json", "tokenizer_config.json"}


def test_a_folder_without_a_model_configuration_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight file can be in any folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match="the tokenizer some/tower"):
        tokenizer_files(cfg_of("some/tower"), bert(tmp_path), tmp_path / "cache")


def test_clips_own_tokenizer_needs_no_files(tmp_path: Path) -> None:
    """Repositories of CLIP also have a `tokenizer.json`, which pads differently."""
    folder = bert(tmp_path)
    (folder / "config.json").write_text("{}")
    assert isinstance(get_tokenizer(CLIPTextCfg(), folder), CLIPTokenizer)
    assert tokenizer_files(CLIPTextCfg(), folder) == {}
    assert write_tokenizer(CLIPTextCfg(), tmp_path / "copy", folder) == []


def test_a_written_folder_loads_without_other_files(hub: Hub, tmp_path: Path) -> None:
    hub.publish("some/tower", content(siglip(tmp_path / "made")))
    expected = get_tokenizer(cfg_of("some/tower"))(TEXTS)
    target = tmp_path / "model"
    written = write_tokenizer(cfg_of("some/tower"), target)
    (target / "open_clip_config.json").write_text("{}")
    shutil.rmtree(tmp_path / "hub")
    hub.requests.clear()
    assert get_tokenizer(cfg_of("some/tower"), target)(TEXTS).equal(expected)
    assert {path.name for path in written} == {"tokenizer.json", "tokenizer_config.json"}
    assert hub.requests == []


def test_a_tokenizer_without_a_name_is_read_beside_the_model(hub: Hub, tmp_path: Path) -> None:
    folder = bert(tmp_path / "model")
    (folder / "config.json").write_text("{}")
    hub.publish("own/model", content(folder))
    for source in (folder, "hf-hub:own/model"):
        tokenizer = get_tokenizer(cfg_of(TOKENIZER_IN_MODEL_FOLDER), source)
        assert tokenizer(TEXTS).equal(HFTokenizer(folder, 16)(TEXTS))
        assert TOKENIZER_IN_MODEL_FOLDER not in repr(tokenizer)


def test_a_missing_tokenizer_error_names_the_files_to_copy(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"copy tokenizer\.json and tokenizer_config\.json into it"):
        get_tokenizer(cfg_of(TOKENIZER_IN_MODEL_FOLDER), tmp_path)
    for source in (None, bert(tmp_path / "elsewhere")):
        with pytest.raises(ConfigError, match="load the model from that folder"):
            get_tokenizer(cfg_of(TOKENIZER_IN_MODEL_FOLDER), source)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match="hf-hub:own/model is not on this machine"):
        get_tokenizer(cfg_of(TOKENIZER_IN_MODEL_FOLDER), "hf-hub:own/model")


def test_options_of_the_configuration_reach_the_tokenizer(tmp_path: Path) -> None:
    cfg = cfg_of(str(bert(tmp_path)), tokenizer_kwargs={"clean": "canonicalize", "strip_sep_token": True})
    expected = HFTokenizer(tmp_path, 16, clean="canonicalize", strip_sep_token=True)
    assert get_tokenizer(cfg)("A photo, of THE dog!").equal(expected("a photo of the dog"))


@pytest.mark.parametrize("name", ["a b", "http://x/y"])
def test_an_invalid_repository_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a repository name"):
        get_tokenizer(cfg_of(name))
