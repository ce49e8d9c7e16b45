"""Features of our factory that open_clip_torch 3.3.0 lacks; each probe tests one of them."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from cases_factory import CONFIGS

NAME = "probe-vit"


def observe(package: Any) -> dict[str, bool]:
    """Return for each probe whether the package has the feature."""
    logging.disable(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Path(folder, f"{NAME}.json").write_text(json.dumps(CONFIGS["small-vit"]))
            package.add_model_config(Path(folder, f"{NAME}.json"))
            return {name: _does(probe, package, Path(folder)) for name, probe in PROBES.items()}
    finally:
        logging.disable(logging.NOTSET)


def _does(probe: Callable[[Any, Path], bool], package: Any, folder: Path) -> bool:
    try:
        return bool(probe(package, folder))
    except Exception:
        return False


def _refuses(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Exception:
        return True
    return False


def _traced(package: Any, folder: Path) -> bool:
    return package.trace_model(package.create_model(NAME), batch_size=1) is not None


def _activation(package: Any, folder: Path) -> bool:
    """Check that a tag trained with QuickGELU gives QuickGELU, without a download."""
    cfg = {**CONFIGS["small-vit"]}
    Path(folder, "RN50.json").write_text(json.dumps(cfg))  # a small model under a name that has tags
    published = package.get_model_config("RN50")
    package.add_model_config(Path(folder, "RN50.json"))
    try:
        weights = folder / "weights.pt"
        torch.save(package.create_model("RN50").state_dict(), weights)
        # the published package downloads weights that it does not load, so provide a file
        with patch.object(package.factory, "download_pretrained", lambda *args, **kwargs: str(weights)):
            model = package.create_model("RN50", "openai", load_weights=False)
        return type(model.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    finally:
        Path(folder, "RN50.json").write_text(json.dumps(published))
        package.add_model_config(Path(folder, "RN50.json"))


def _missing_tower(package: Any, folder: Path) -> bool:
    return _refuses(lambda: package.create_model(NAME, pretrained_image_path=str(folder / "none.pt")))


def _foreign_tower(package: Any, folder: Path) -> bool:
    torch.save({"of.another": torch.ones(1)}, folder / "other.pt")
    return _refuses(lambda: package.create_model(NAME, pretrained_text_path=str(folder / "other.pt")))


def _tower_of_a_model(package: Any, folder: Path) -> bool:
    whole = package.create_model(NAME)
    torch.save(whole.state_dict(), folder / "whole.pt")
    model = package.create_model(NAME, pretrained_image_path=str(folder / "whole.pt"))
    return torch.equal(model.visual.proj, whole.visual.proj)


def _precision(package: Any, folder: Path) -> bool:
    return _refuses(lambda: package.create_model(NAME, precision="half"))


def _tokenizer(package: Any, folder: Path) -> bool:
    return _refuses(lambda: package.get_tokenizer("ViT-B-23"))


def _spelling(package: Any, folder: Path) -> bool:
    package.factory._MODEL_CONFIGS["a-b"] = {**CONFIGS["small-vit"]}
    return bool(package.get_tokenizer("a/b").context_length == 16)


def _pixels(package: Any, folder: Path) -> bool:
    """Check the preprocessing of random weights, for an architecture whose published weights use other statistics."""
    published = package.get_model_config("ViT-L-14-CLIPA")
    package.factory._MODEL_CONFIGS["ViT-L-14-CLIPA"] = json.loads(json.dumps(CONFIGS["small-vit"]))
    try:
        model = package.create_model("ViT-L-14-CLIPA")
        return tuple(model.visual.preprocess_cfg["mean"]) == (0.485, 0.456, 0.406)
    finally:
        package.factory._MODEL_CONFIGS["ViT-L-14-CLIPA"] = published


def _registered(package: Any, folder: Path) -> bool:
    return _refuses(lambda: package.add_model_config(folder / "none.json"))


def _kept(package: Any, folder: Path) -> bool:
    """Check that configurations are added in place to an imported table."""
    table = package.factory._MODEL_CONFIGS
    package.add_model_config(folder / f"{NAME}.json")
    return table is package.factory._MODEL_CONFIGS


PROBES = {
    "vision transformers are traced": _traced,
    "the tag decides the activation": _activation,
    "a tower's file that is not there is refused": _missing_tower,
    "a tower's file of which nothing fits is refused": _foreign_tower,
    "a tower is taken out of a whole model": _tower_of_a_model,
    "an unknown precision is refused": _precision,
    "the tokenizer of an unknown model is refused": _tokenizer,
    "slashes in a tokenizer's model are known": _spelling,
    "random weights are prepared for as published ones": _pixels,
    "a configuration that is not there is refused": _registered,
    "the table of configurations stays the same": _kept,
}
