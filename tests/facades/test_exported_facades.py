"""Every name of the published `clip` and `open_clip` exists in ours, with the same kind and signature."""

from __future__ import annotations

import ast
import gzip
import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import clip
import open_clip
from tests import programs

PUBLISHED: dict[str, dict[str, Any]] = json.loads(
    gzip.decompress(Path(__file__).with_name("published_names.json.gz").read_bytes())
)
"""Kind, signature and members by module and name, of OpenAI's clip and open_clip_torch 3.3.0."""

NAMES = [(module, name) for module, names in PUBLISHED.items() for name in names]
MEMBERS = [
    (module, name, member)
    for module, name in NAMES
    if PUBLISHED[module][name].get("from") == module
    for member in PUBLISHED[module][name].get("members", {})
    if member != "__init__"  # has the arguments of the class
]

OUR_OPTIONS = {f"clip.model.CLIP.encode_{kind}": ("normalize",) for kind in ("image", "text")}
OUR_DEFAULTS = {
    "clip.clip.load": {"device"},  # None means: chosen at the call, not at import
    "open_clip.transformer.TextTransformer.forward_intermediates": {
        "output_fmt"
    },  # the published default raises an error
}


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_published_name_is_there(module: str, name: str) -> None:
    published = PUBLISHED[module][name]
    ours = getattr(importlib.import_module(module), name)
    assert kind_of(ours) == published["kind"]
    if published["kind"] == "value":
        assert type(ours).__name__ == published["type"]
    if published.get("from", module) != module:
        assert any(ours is value for value in vars(importlib.import_module(published["from"])).values())
    elif "signature" in published:
        assert_takes(ours, published["signature"], f"{module}.{name}")


@pytest.mark.parametrize(("module", "name", "member"), MEMBERS)
def test_a_published_class_has_its_members(module: str, name: str, member: str) -> None:
    published = PUBLISHED[module][name]["members"][member]
    kind = getattr(importlib.import_module(module), name)
    if published == "property":
        assert hasattr(kind, member)
    elif published == "attribute":
        assert hasattr(kind, member) or member in getattr(kind, "__dataclass_fields__", {})
    else:
        assert_takes(getattr(kind, member), published, f"{module}.{name}.{member}")


def kind_of(value: Any) -> str:
    if inspect.isclass(value):
        return "class"
    if isinstance(value, ModuleType):
        return "module"
    return "function" if inspect.isroutine(value) else "value"


def assert_takes(ours: Any, signature: str, name: str) -> None:
    """Check name, kind and default of all parameters; further keyword-only parameters are allowed."""
    found = list(inspect.signature(ours).parameters.values())
    published = published_parameters(signature)
    known = {parameter.name for parameter in published}
    found = [p for p in found if p.name in known or p.kind is not inspect.Parameter.KEYWORD_ONLY]
    if found and found[-1].name in OUR_OPTIONS.get(name, ()):
        found.pop()  # TorchScript does not support keyword-only arguments
    assert [(p.name, p.kind.name) for p in found] == [(p.name, p.kind.name) for p in published]
    for own, there in zip(found, published, strict=True):
        assert own.default is not own.empty or there.default is there.empty, f"{own.name} has no default"
        if isinstance(there.default, Literal) and own.name not in OUR_DEFAULTS.get(name, ()):
            assert plain(own.default) == there.default.value, own.name


class Literal:
    """Default value that can be compared."""

    def __init__(self, value: Any) -> None:
        self.value = pytest.approx(value) if isinstance(value, float) else plain(value)


def plain(value: Any) -> Any:
    """Convert containers to lists, so that an empty tuple equals an empty dict."""
    return list(value) if isinstance(value, (tuple, list, dict, set)) else value


def published_parameters(signature: str) -> list[inspect.Parameter]:
    """Parse the parameters of a signature given as text."""
    signature = re.sub(r"np\.float64\(([\d.]+)\)", r"\1", signature)  # the text of a number in NumPy 2
    signature = re.sub(r"<[^<>]*>", "unknown", signature)
    function = ast.parse(f"def f{signature}: pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    given = function.args
    kinds = inspect.Parameter
    positional = [None] * (len(given.args) - len(given.defaults)) + list(given.defaults)
    rows: list[tuple[ast.arg | None, Any, ast.expr | None]] = [
        *((arg, kinds.POSITIONAL_OR_KEYWORD, node) for arg, node in zip(given.args, positional, strict=True)),
        (given.vararg, kinds.VAR_POSITIONAL, None),
        *(
            (arg, kinds.KEYWORD_ONLY, node)
            for arg, node in zip(given.kwonlyargs, given.kw_defaults, strict=True)
        ),
        (given.kwarg, kinds.VAR_KEYWORD, None),
    ]
    return [
        kinds(arg.arg, kind, default=kinds.empty if node is None else default(node))
        for arg, kind, node in rows
        if arg is not None
    ]


def default(node: ast.expr) -> Any:
    try:
        return Literal(ast.literal_eval(node))
    except ValueError:
        return ast.unparse(node)


@pytest.mark.parametrize("package", [clip, open_clip])
def test_a_package_exports_its_published_names_and_no_others(package: ModuleType) -> None:
    published = PUBLISHED[package.__name__].items()
    names = [name for name, entry in published if entry["kind"] != "module"]
    version = ["__version__"] if package is open_clip else []
    assert sorted(package.__all__) == sorted(names + version)


def test_the_version_is_the_published_one() -> None:
    assert open_clip.__version__ == "3.3.0"


def test_small_helpers_do_what_programs_import_them_for() -> None:
    from open_clip.transform import _convert_to_rgb
    from open_clip.zero_shot_classifier import batched

    assert _convert_to_rgb(Image.new("LA", (2, 1))).mode == "RGB"
    assert list(batched(iter("abcde"), 2)) == [["a", "b"], ["c", "d"], ["e"]]


def test_every_published_module_is_there_once_the_package_is_imported() -> None:
    modules = [name for name, entry in PUBLISHED["open_clip"].items() if entry["kind"] == "module"]
    program = f"import open_clip; print(*[m for m in {modules} if not hasattr(open_clip, m)])"
    done = programs.run(["-c", program])
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


def test_importing_the_package_loads_neither_timm_nor_transformers_nor_torchvision() -> None:
    program = "import sys, open_clip; print(*{'timm', 'transformers', 'torchvision'} & set(sys.modules))"
    done = programs.run(["-c", program])
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()
