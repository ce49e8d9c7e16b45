"""The reader of untrusted JSON files, and its users."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import open_clip
from oneclip.errors import CheckpointError
from oneclip.hub import read_json
from oneclip.model.hf_config import text_config
from oneclip.text.hf.tokenizer_config import read_settings

MARK = b"\xef\xbb\xbf"  # which PowerShell and Notepad put before UTF-8
CFG = {"embed_dim": 16, "vision_cfg": {"layers": 1, "width": 32}, "text_cfg": {"context_length": 12}}


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(MARK + '{"é": 1}'.encode())
    assert read_json(tmp_path / "a.json") == {"é": 1}


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff", b"[" * 10**5, b'{"a": ' + b"1" * 5000 + b"}"])
def test_content_that_is_not_an_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """Make a sparse file of a gigabyte."""
    path = tmp_path / "huge.json"
    path.touch()
    os.truncate(path, 2**30)
    return path


def test_a_huge_file_is_not_read(huge: Path) -> None:
    with pytest.raises(CheckpointError, match=r"1,073,741,824 bytes"):
        read_json(huge)


def test_tokenizer_settings_are_read_safely(tmp_path: Path, huge: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_bytes(MARK + b'{"padding_side": "left"}')
    assert read_settings({path.name: path}, {}, "it").side("padding") == "left"
    with pytest.raises(CheckpointError, match="1,073,741,824"):
        read_settings({path.name: huge}, {}, "it")


def test_the_configuration_of_a_text_tower_is_read_safely(tmp_path: Path, huge: Path) -> None:
    pytest.importorskip("transformers")
    path = tmp_path / "config.json"
    path.write_bytes(MARK + json.dumps({"model_type": "bert", "pad_token_id": 0}).encode())
    assert text_config(str(tmp_path)).model_type == "bert"
    huge.replace(path)
    with pytest.raises(CheckpointError, match="1,073,741,824"):
        text_config(str(tmp_path))


def test_open_clip_functions_read_configurations_safely(tmp_path: Path, huge: Path) -> None:
    path = tmp_path / "open_clip_config.json"
    path.write_bytes(MARK + json.dumps({"model_cfg": CFG}).encode())
    name = f"local-dir:{tmp_path}"
    assert open_clip.get_model_config(name) == CFG
    assert open_clip.get_tokenizer(name)("a cat").shape == (1, 12)
    huge.replace(path)
    for function in (open_clip.get_model_config, open_clip.get_tokenizer):
        with pytest.raises(CheckpointError, match="1,073,741,824"):
            function(name)
