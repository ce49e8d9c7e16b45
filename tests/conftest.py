"""Fixtures and hooks of all tests."""

import io
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

# tests are small, and run beside each other; torch reads it when it is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

from greatest import Summary
from torchvision_stub import declare_operators

declare_operators()  # timm and transformers import torchvision


# these start first, so that no process is left alone with one of them at the end
LONGEST = (
    "test_together.py",
    "test_ray_cluster.py",
    "test_resume_ranks.py",
    "test_finetune.py",
    "test_docs.py",
)
# the costliest; with tests/parity, what `make test-fast` leaves out
SLOW = {
    *LONGEST,
    "test_activation.py",
    "test_architectures.py",
    "test_attention_heads.py",
    "test_bad_input.py",
    "test_clean.py",
    "test_cli_caption.py",
    "test_cli_contract.py",
    "test_cli_convert.py",
    "test_cli_duplicates.py",
    "test_cli_embed.py",
    "test_cli_evaluate.py",
    "test_cli_finetune.py",
    "test_cli_index.py",
    "test_cli_inspect.py",
    "test_cli_models_doctor.py",
    "test_cli_probe.py",
    "test_cli_pull.py",
    "test_cli_search.py",
    "test_cli_serve.py",
    "test_cli_sort.py",
    "test_clip_load.py",
    "test_clip_ranks.py",
    "test_clip_tokenizer_files.py",
    "test_coca.py",
    "test_dcp.py",
    "test_default_dtype.py",
    "test_devices.py",
    "test_encoder_object.py",
    "test_end_of_text.py",
    "test_convert.py",
    "test_finetune_ranks.py",
    "test_format_big_vision.py",
    "test_format_mobileclip.py",
    "test_format_transformers.py",
    "test_grad_cache.py",
    "test_hf_tokenizer.py",
    "test_hf_tower.py",
    "test_hostile_checkpoints.py",
    "test_hub_huggingface.py",
    "test_hub_models.py",
    "test_image_folder_dataset.py",
    "test_index.py",
    "test_killed_trainings.py",
    "test_kills.py",
    "test_index_kills.py",
    "test_linear_probe.py",
    "test_loader.py",
    "test_loop.py",
    "test_lora.py",
    "test_missing_tokenizer.py",
    "test_mutations.py",
    "test_open_clip_factory.py",
    "test_open_clip_hub.py",
    "test_open_clip_usage.py",
    "test_plans.py",
    "test_pocket_heldout.py",
    "test_prefix_sharing.py",
    "test_preflight.py",
    "test_preprocess.py",
    "test_pretokenize.py",
    "test_prompt_learning.py",
    "test_read.py",
    "test_recipes.py",
    "test_run.py",
    "test_run_dir.py",
    "test_run_ranks.py",
    "test_sampler.py",
    "test_serve_cohere.py",
    "test_serve_page.py",
    "test_serve_server.py",
    "test_serve_soak.py",
    "test_settings.py",
    "test_siglip_inside.py",
    "test_siglip_plan.py",
    "test_siglip_ranks.py",
    "test_skip_init_towers.py",
    "test_staleness.py",
    "test_tiled_losses.py",
    "test_tiled_ranks.py",
    "test_tokenizer_in_folder.py",
    "test_torchscript.py",
    "test_trim.py",
    "test_truncated_files.py",
    "test_unsupported_files.py",
    "test_watchdog.py",
    "test_workers.py",
}


def is_slow(path: Path) -> bool:
    return path.name in SLOW or "parity" in path.parts


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the import of slow test files if only fast tests were requested."""
    return True if config.option.markexpr == "not slow" and is_slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_slow(item.path):
            item.add_marker(pytest.mark.slow)
    # tests that wait for the published packages run last
    items.sort(key=lambda item: (item.path.name not in LONGEST, "parity" in item.path.parts))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use one worker more than processors, because slow tests often wait for servers and subprocesses."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: the processors that this process may use
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    return processors + (config.option.markexpr != "not slow")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Summary())


@pytest.fixture
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the drawing of figures, which would dominate small trainings, except in tests marked `draws`."""
    if find_spec("matplotlib") is None or request.node.get_closest_marker("draws"):
        return
    png = io.BytesIO()
    Image.new("L", (1, 1)).save(png, "png")
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda _figure, file, **_options: file.write(png.getvalue())
    )


@pytest.fixture
def pocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide "pocket": the weights of the package, or a tiny random model if they are missing."""
    from oneclip import zoo

    path = zoo.pocket_path()
    if not path.is_file():
        from tiny import write_tiny_model

        path = write_tiny_model(tmp_path / "pocket.safetensors")
        for module in ("oneclip.zoo", "oneclip.zoo.resolve"):
            monkeypatch.setattr(sys.modules[module], "pocket_path", lambda: path)
    return path
