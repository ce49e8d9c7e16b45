"""The configuration of a Hugging Face text tower to a file beside the weights, for where nobody can be asked for it.

`open_clip_config.json` only names the tower. The configurations of published ones come with the library; any other is
put into the folder.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from oneclip import hub, zoo
from oneclip.config import ModelCfg

FILE = "text_tower.json"
NAME = "_name_or_path"  # where transformers, too, writes a configuration's own name


def write_text_tower(cfg: ModelCfg, folder: Path) -> ModelCfg:
    """Put the configuration of a model's text tower into a folder, unless the library has it or there is none.

    Returns:
        `cfg` with the name that the tower has wherever the folder is brought.

    Raises:
        DownloadError: if the configuration is not here and cannot be fetched.
    """
    name = cfg.text_cfg.hf_model_name
    if name is None or zoo.text_tower(name) is not None:
        return cfg
    here = Path(name).expanduser()
    if here.is_file():
        values = hub.read_json(here)
        name = str(values.get(NAME) or here.stem)
    elif here.is_dir():
        values, name = hub.read_json(here / "config.json"), here.resolve().name
    else:
        values = hub.read_json(hub.hub_file(name, "config.json"))
    content = json.dumps(values | {NAME: name}, indent=2, ensure_ascii=False) + "\n"
    (folder / FILE).write_text(content, encoding="utf-8")
    return _named(cfg, name)


def find_text_tower(cfg: ModelCfg, folder: Path) -> ModelCfg:
    """`cfg` with that file of its folder as its text tower's name, if it is there and no such tower is known here."""
    name = cfg.text_cfg.hf_model_name
    if name is None or zoo.text_tower(name) is not None or not (folder / FILE).is_file():
        return cfg
    return _named(cfg, str((folder / FILE).absolute()))


def _named(cfg: ModelCfg, name: str) -> ModelCfg:
    return replace(cfg, text_cfg=replace(cfg.text_cfg, hf_model_name=name))
