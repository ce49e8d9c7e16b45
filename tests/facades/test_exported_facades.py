"""The names that the facades export, with their arguments; a change here is a change of the API."""

from __future__ import annotations

import ast
import gzip
import importlib
import inspect
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import open_clip

PUBLISHED: dict[str, Any] = json.loads(
    gzip.decompress(Path(__file__).with_name("open_clip_torch-3.3.0.api.json.gz").read_bytes())
)
"""The public names of open_clip_torch 3.3.0 with their arguments, and the names that programs import of its modules."""

CLIP_NAMES = {
    "clip": ["available_models", "load", "tokenize"],
    "clip.model": [
        "CLIP",
        "AttentionPool2d",
        "Bottleneck",
        "LayerNorm",
        "ModifiedResNet",
        "QuickGELU",
        "ResidualAttentionBlock",
        "Transformer",
        "VisionTransformer",
        "build_model",
        "convert_weights",
    ],
}
CALLABLES = {
    name: entry["init"] if entry["kind"] == "class" else entry["signature"]
    for name, entry in PUBLISHED["public"].items()
    if entry["kind"] in ("class", "function")
}
METHODS = {
    f"{name}.{method}": arguments
    for name, entry in PUBLISHED["public"].items()
    for method, arguments in entry.get("methods", {}).items()
}
DATACLASSES = {n: entry["fields"] for n, entry in PUBLISHED["public"].items() if entry["kind"] == "dataclass"}
OURS_TOO = [("tile_size", "KEYWORD_ONLY", None)]  # of losses, where no published argument can end up
SUBMODULES = [(module, name) for module, names in PUBLISHED["submodule_names"].items() for name in names]
SCALE = 2.659260036932778  # ln(1 / 0.07)


@pytest.mark.parametrize("module", CLIP_NAMES)
def test_a_facade_exports_these_names(module: str) -> None:
    exported = importlib.import_module(module)
    assert sorted(exported.__all__) == sorted(CLIP_NAMES[module])
    assert all(hasattr(exported, name) for name in CLIP_NAMES[module])


@pytest.mark.parametrize(
    "name", ["_MODELS", "_download", "_transform", "_tokenizer", "_convert_image_to_rgb", "build_model"]
)
def test_clip_clip_has_the_names_that_programs_import(name: str) -> None:
    assert hasattr(importlib.import_module("clip.clip"), name)


def test_open_clip_exports_the_published_names_and_no_others() -> None:
    assert sorted(open_clip.__all__) == sorted([*PUBLISHED["public"], "__version__"])
    assert open_clip.__version__ == PUBLISHED["version"]


@pytest.mark.parametrize("name", CALLABLES)
def test_a_callable_takes_the_published_arguments(name: str) -> None:
    found = [argument for argument in arguments_of(getattr(open_clip, name)) if argument not in OURS_TOO]
    assert found == published_arguments(CALLABLES[name])


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_the_published_arguments(name: str) -> None:
    kind, method = name.split(".")
    ours = arguments_of(getattr(getattr(open_clip, kind), method))
    assert ours[: len(published_arguments(METHODS[name]))] == published_arguments(METHODS[name])


@pytest.mark.parametrize("name", DATACLASSES)
def test_a_configuration_has_the_published_fields(name: str) -> None:
    ours = {field.name: field.default for field in fields(getattr(open_clip, name))}
    assert ours == {field: ast.literal_eval(default) for field, (_, default) in DATACLASSES[name].items()}


@pytest.mark.parametrize(("module", "name"), SUBMODULES)
def test_a_module_has_the_names_that_programs_import(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def test_small_helpers_do_what_programs_import_them_for() -> None:
    from open_clip.transform import _convert_to_rgb
    from open_clip.zero_shot_classifier import batched

    assert _convert_to_rgb(Image.new("LA", (2, 1))).mode == "RGB"
    assert list(batched(iter("abcde"), 2)) == [["a", "b"], ["c", "d"], ["e"]]


MODULES = (
    *("coca_model", "constants", "convert", "factory", "hf_configs", "hf_model", "loss", "model"),
    *("modified_resnet", "openai", "pos_embed", "pretrained", "push_to_hf_hub", "timm_model", "tokenizer"),
    *("transform", "transformer", "utils", "version", "zero_shot_classifier", "zero_shot_metadata"),
)


def test_every_published_module_is_there_once_the_package_is_imported() -> None:
    program = f"import open_clip; print(*[m for m in {MODULES} if not hasattr(open_clip, m)])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_importing_the_package_loads_neither_timm_nor_transformers_nor_torchvision() -> None:
    program = "import sys, open_clip; print(*{'timm', 'transformers', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def arguments_of(target: Any) -> list[tuple[str, str, Any]]:
    """(name, kind, default) of each argument, but `self`."""
    return [
        (p.name, p.kind.name, plain(p.default))
        for p in inspect.signature(target).parameters.values()
        if p.name != "self"
    ]


def published_arguments(signature: str) -> list[tuple[str, str, Any]]:
    """The same of a signature as text, whose annotations are not looked at."""
    signature = signature.replace(" at 0x", "").replace("<class 'int'>", "int")
    function = ast.parse(f"def f{signature}: pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    given = function.args
    defaults = [inspect.Parameter.empty] * (len(given.args) - len(given.defaults)) + [
        default(node) for node in given.defaults
    ]
    found = [
        (argument.arg, "POSITIONAL_OR_KEYWORD", value)
        for argument, value in zip(given.args, defaults, strict=True)
        if argument.arg != "self"
    ]
    return found + ([(given.kwarg.arg, "VAR_KEYWORD", inspect.Parameter.empty)] if given.kwarg else [])


def default(node: ast.expr) -> Any:
    """The value of a default, or a word for those that are no literals."""
    try:
        return plain(ast.literal_eval(node))
    except ValueError:
        return WORDS.get(ast.unparse(node), ast.unparse(node))


WORDS = {
    f"np.float64({SCALE})": "ln(1 / 0.07)",
    "torch.float16": "torch.float16",
    "device(type='cpu')": "cpu",
    "DEFAULT_VOCABULARY": "the vocabulary",
}


def plain(value: Any) -> Any:
    """A default as something that two packages can be compared by."""
    if isinstance(value, float) and abs(value - SCALE) < 1e-12:
        return "ln(1 / 0.07)"
    if str(value).endswith(".txt.gz"):
        return "the vocabulary"
    return str(value) if type(value).__module__.startswith("torch") else value
