"""Upload of models with `open_clip`: they load by name, and have the files that other libraries expect."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import TOKEN, Hub, environment
from hub_upload import taking_uploads
from safetensors.torch import load

import oneclip
import open_clip
from oneclip import checkpoint
from open_clip.push_to_hf_hub import generate_readme, save_for_hf
from tests import programs

CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PROGRAM = """
import json, sys, torch, open_clip
from pathlib import Path
folder = Path(sys.argv[1])
open_clip.add_model_config(folder / "small.json")
torch.manual_seed(0)
made = open_clip.create_model("small")
torch.save(made.state_dict(), folder / "small.pt")
if sys.argv[2] == "pretrained":
    info = open_clip.push_pretrained_to_hf_hub(
        "small", str(folder / "small.pt"), "me/small", image_mean=(0.1, 0.2, 0.3), image_resize_mode="squash",
        force_image_size=48, model_card={"license": "cc0-1.0", "description": "A small one."},
    )
else:
    model = open_clip.create_model("small", str(folder / "small.pt"))
    info = open_clip.push_to_hf_hub(
        model, open_clip.get_tokenizer("small"), open_clip.get_model_config("small"), "small", token=sys.argv[3],
        commit_message="One more", safe_serialization=True,
    )
model, preprocess = open_clip.create_model_from_pretrained("hf-hub:me/small")
tokenizer = open_clip.get_tokenizer("hf-hub:me/small")
size = model.visual.image_size
with torch.no_grad():
    text = model.encode_text(tokenizer(["a cat"]))
    same = bool(torch.equal(text, made.eval().encode_text(tokenizer(["a cat"]))))
    image = model.encode_image(torch.zeros(1, 3, *size))
cfg = open_clip.get_model_config("hf-hub:me/small")
print(json.dumps({"same": same, "commit": info.oid, "size": size, "preprocess": model.visual.preprocess_cfg,
    "length": tokenizer.context_length, "quick_gelu": cfg["quick_gelu"]}))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with taking_uploads() as hub:
        yield hub


def run(hub: Hub, folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    (folder / "small.json").write_text(json.dumps(CONFIG))
    variables = {**os.environ, **environment(hub, str(folder)), **changes}
    return programs.run(["-c", PROGRAM, folder, *arguments], variables)


def files_of(hub: Hub, repo: str) -> dict[str, bytes]:
    repository = hub.repositories[repo]
    return repository.commits[repository.refs["main"]]


def test_pushed_pretrained_weights_have_their_metadata_and_load_by_name(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "pretrained", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert seen["same"]
    assert seen["quick_gelu"]
    assert (seen["size"], seen["length"]) == ([48, 48], 20)
    assert seen["preprocess"]["mean"] == [0.1, 0.2, 0.3]
    assert seen["preprocess"]["resize_mode"] == "squash"
    files = files_of(hub, "me/small")
    assert {"open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"} < set(
        files
    )
    assert {"tokenizer.json", "tokenizer_config.json", "README.md"} < set(files)
    readme = files["README.md"].decode()
    assert "license: cc0-1.0" in readme
    assert "A small one." in readme
    assert json.loads(files["open_clip_config.json"])["model_cfg"]["vision_cfg"]["image_size"] == 48


def test_a_model_is_pushed_without_its_owner_and_an_old_readme_stays(hub: Hub, tmp_path: Path) -> None:
    hub.publish("me/small", {"README.md": b"mine"})
    done = run(hub, tmp_path, "model", TOKEN)
    assert done.returncode == 0, done.stderr[-2000:]
    files = files_of(hub, "me/small")
    assert files["README.md"] == b"mine"
    assert "open_clip_pytorch_model.bin" not in files
    weights = load(files["open_clip_model.safetensors"])
    written = torch.load(tmp_path / "small.pt", weights_only=True)
    assert all(torch.equal(weights[name], tensor) for name, tensor in written.items())


def test_a_refusal_says_how_to_log_in(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "model", "hf_of_nobody")
    assert done.returncode != 0
    assert "OutputError" in done.stderr
    assert "hf auth login" in done.stderr


def test_the_readme_lists_what_it_is_given() -> None:
    card = {
        "tags": ["clip", "zero-shot"],
        "license": "mit",
        "details": {"Dataset": "LAION", "Papers": ["a", "b"], "Sizes": {"image": 1}},
        "usage": "Use it.",
        "citation": ["@x", "@y"],
    }
    readme = generate_readme(card, "small")
    assert readme.startswith("---\ntags:\n- clip\n- zero-shot\nlibrary_name: open_clip\n")
    assert "datasets:\n- laion\n---\n# Model card for small\n" in readme
    assert "- **Papers:**\n  - a\n  - b\n- **Sizes:**\n  - image: 1\n" in readme
    assert "## Model Usage\nUse it.\n" in readme
    assert readme.count("```bibtex") == 2
    assert card["tags"] == ["clip", "zero-shot"]


def write_small_model(folder: Path) -> open_clip.CLIP:
    model = open_clip.CLIP(**{k: CONFIG[k] for k in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")})
    pixels = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "longest", "size": 32}
    open_clip.set_model_preprocess_cfg(model, pixels)
    save_for_hf(model, open_clip.SimpleTokenizer(context_length=20), CONFIG, folder)
    return model


def test_a_folder_loads_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "model"
    model = write_small_model(folder)
    loaded, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert loaded.visual.preprocess_cfg["resize_mode"] == "longest"
    assert preprocess.cfg.mean == (0.5,) * 3
    assert open_clip.get_tokenizer(f"local-dir:{folder}").context_length == 20
    torch.testing.assert_close(loaded.state_dict(), model.state_dict())
    with pytest.warns(UserWarning, match="not used"):
        open_clip.create_model(f"local-dir:{folder}", pretrained="openai")


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_weights_outside_their_folder_still_load(name: str, tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "open_clip_config.json").read_text())
    alone = (tmp_path / "model" / name).rename(tmp_path / name)
    metadata = checkpoint.read(alone).metadata
    assert {key: metadata[key] for key in config} == config
    loaded = oneclip.load(
        alone, device="cpu"
    )  # without metadata, `heads` would be required, because they are 16 wide
    assert loaded.preprocess.cfg.resize_mode == "longest"
    assert loaded.preprocess.cfg.mean == (0.5,) * 3
    torch.testing.assert_close(loaded.model.state_dict(), model.state_dict())
