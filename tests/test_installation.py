"""The pip command of an extra names the place from which this distribution was installed."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from oneclip.installation import install_command


class FakeDistribution:
    """Installed distribution whose direct_url.json is given."""

    def __init__(self, origin: dict[str, Any] | None) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self._origin is None else json.dumps(self._origin)


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'oneclip[timm,hf]'"),
        ({"url": "file://{here}", "dir_info": {"editable": True}}, "pip install -e '{here}[timm,hf]'"),
        ({"url": "file://{here}", "dir_info": {}}, "pip install '{here}[timm,hf]'"),
        (
            {"url": "file://{here}/oneclip.whl", "archive_info": {}},
            "pip install '{here}/oneclip.whl[timm,hf]'",
        ),
        ({"url": "file://{here}/deleted.whl", "archive_info": {}}, "pip install 'oneclip[timm,hf]'"),
        (
            {"url": "https://host/oneclip", "vcs_info": {"vcs": "git", "commit_id": "1234"}},
            "pip install 'oneclip[timm,hf] @ git+https://host/oneclip@1234'",
        ),
    ],
    ids=["index", "editable", "checkout", "wheel", "deleted wheel", "git"],
)
def test_the_command_names_the_source(
    origin: dict[str, Any] | None, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "oneclip.whl").touch()
    if origin is not None:
        origin = origin | {"url": origin["url"].replace("{here}", tmp_path.as_posix())}
    monkeypatch.setattr(metadata, "distribution", lambda name: FakeDistribution(origin))
    assert install_command.__wrapped__("timm,hf") == command.replace("{here}", str(tmp_path))
