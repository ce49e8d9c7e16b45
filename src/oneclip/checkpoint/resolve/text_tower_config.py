"""Store the configuration of a Hugging Face text tower next to the weights.

`open_clip_config.json` contains only the name of the text tower. The configurations of published towers are part of
this package; any other is written into the folder, so that it loads without a network.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from oneclip import hub, zoo
from oneclip.config import ModelCfg

TEXT_TOWER_FILE = "text_tower.json"
NAME_KEY = "_name_or_path"  # transformers stores the name of a configuration under this key, too


def write_text_tower(cfg: ModelCfg, folder: Path) -> ModelCfg:
    """Write the configuration of a model's text tower into a folder, unless it is part of this package.

    Returns:
        `cfg` with a name of the text tower that stays valid when the folder is moved.

    Raises:
        DownloadError: if the configuration is not on this machine and cannot be downloaded.
    """
    name = cfg.text_cfg.hf_model_name
    if name is None or zoo.text_tower(name) is not None:
        return cfg
    path, kind = zoo.local_path(name)
    if kind == "file":
        values = hub.read_json(path)
        name = str(values.get(NAME_KEY) or path.stem)
    elif kind == "folder":
        values, name = hub.read_json(path / "config.json"), path.resolve().name
    else:
        values = hub.read_json(hub.hub_file(name, "config.json"))
    content = json.dumps(values | {NAME_KEY: name}, indent=2, ensure_ascii=False) + "\n"
    (folder / TEXT_TOWER_FILE).write_text(content, encoding="utf-8")
    return _with_text_tower(cfg, name)


def find_text_tower(cfg: ModelCfg, folder: Path) -> ModelCfg:
    """Use the folder's text tower configuration, if it has one and the tower is not part of this package."""
    name = cfg.text_cfg.hf_model_name
    if name is None or zoo.text_tower(name) is not None or not (folder / TEXT_TOWER_FILE).is_file():
        return cfg
    return _with_text_tower(cfg, str((folder / TEXT_TOWER_FILE).absolute()))


def _with_text_tower(cfg: ModelCfg, name: str) -> ModelCfg:
    return replace(cfg, text_cfg=replace(cfg.text_cfg, hf_model_name=name))
