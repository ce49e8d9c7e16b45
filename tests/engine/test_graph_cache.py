"""The cache of graphs, tested on a CPU with a replacement for CUDA graphs: shapes, padding, memory, threads."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_models import (
    CONTEXT,
    END,
    TEXT,
    assert_same,
    random_images,
    random_texts,
    small_model,
    small_siglip,
)
from torch import Tensor

from oneclip.engine import graph_cache
from oneclip.engine.graph_cache import CaptureError, Compute, GraphCache
from oneclip.engine.graph_shapes import LENGTH_BUCKETS, MAX_TOKENS, ROW_BUCKETS, ImageShapes, TextShapes
from oneclip.engine.guards import PlanUnsupported
from oneclip.engine.plan import _kernels, make_image_plan
from oneclip.engine.precision import PLAN_PRECISIONS, gpu_descriptions, kernels_for
from oneclip.engine.text_plan import TextPlan
from oneclip.engine.vision_plan import SigLIPPlan, VisionPlan


class FakeGraphs:
    """Replacement for CUDA graphs that computes: one input buffer for each shape, which keeps the last batch."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.shapes = error, []  # type: ignore[var-annotated]

    def __call__(self, compute: Compute, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        self.shapes.append(shape)
        if self.error is not None:
            raise self.error
        batch = torch.zeros(shape, dtype=dtype)

        def replay(fill: Callable[[Tensor], None], rows: int) -> Tensor:
            fill(batch)
            return compute(batch)[:rows].clone()

        return replay


def plan_of(tower: Any, precision: str = "fp32") -> Any:
    """Build a plan with the kernels of a GPU."""
    kernels = kernels_for(precision, "cuda")
    if hasattr(tower, "trunk"):
        return SigLIPPlan(tower, kernels.pack, kernels.pack_patches)
    if hasattr(tower, "conv1"):
        return VisionPlan(tower, kernels.pack, kernels.pack_patches)
    return TextPlan(tower, kernels.pack)


# ------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("rows", "bucket"), [(1, 1), (3, 4), (8, 8), (9, 16), (33, 48), (100, 128), (163, None), (600, None)]
)
def test_small_batches_of_images_are_padded(rows: int, bucket: int | None) -> None:
    found = ImageShapes(tokens=50).bucket((rows, 3, 224, 224))
    assert found == (None if bucket is None else (bucket, 3, 224, 224))


@pytest.mark.parametrize(
    ("shape", "bucket"),
    [((5, 3), (8, 16)), ((5, 16), (8, 16)), ((2, 17), (2, 32)), ((1, 65), (1, 77)), ((300, 77), None)],
)
def test_small_batches_of_texts_are_padded_in_rows_and_length(
    shape: tuple[int, int], bucket: tuple[int, int] | None
) -> None:
    assert TextShapes(context=77, pad=0).bucket(shape) == bucket


def test_texts_are_padded_to_the_context_at_most() -> None:
    assert TextShapes(context=12, pad=0).bucket((1, 3)) == (1, 12)
    assert TextShapes(context=32, pad=0).bucket((1, 30)) == (1, 32)


def test_without_a_padding_id_only_rows_of_full_length_have_a_graph() -> None:
    assert TextShapes(context=64, pad=None).bucket((3, 64)) == (4, 64)
    assert TextShapes(context=64, pad=None).bucket((3, 20)) is None


def test_no_graph_is_larger_than_the_bound() -> None:
    for length in (*LENGTH_BUCKETS, 77):
        for rows in range(1, 2 * max(ROW_BUCKETS)):
            shape = TextShapes(context=77, pad=0).bucket((rows, length))
            assert shape is None or (shape[0] >= rows and shape[0] * shape[1] <= MAX_TOKENS)


# ------------------------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
@pytest.mark.parametrize("precision", PLAN_PRECISIONS["cuda"])
def test_the_plan_of_a_gpu_gives_the_modules_numbers(precision: str, quick_gelu: bool) -> None:
    model = small_model(quick_gelu=quick_gelu)
    with torch.inference_mode():
        found = plan_of(model.visual, precision)(random_images())
        assert_same(found, model.encode_image(random_images()), "fp32" if precision == "fp32" else "bf16")
        found = plan_of(model, precision)(random_texts())
        assert_same(found, model.encode_text(random_texts()), "fp32" if precision == "fp32" else "bf16")


@pytest.mark.parametrize("option", TEXT)
def test_padding_changes_nothing_if_the_plan_has_a_padding_id(option: str) -> None:
    custom = option == "class_token"
    model = small_model(text=TEXT[option], custom_text=custom)
    tower = model.text if custom else model
    plan = plan_of(tower)
    exact = option not in ("first", "last", "no_causal_mask", "class_token")
    assert plan.pad == (0 if exact else None)
    if exact:
        with torch.inference_mode():
            for length in range(1, CONTEXT):
                ids = random_texts(4, length)
                longer = torch.cat([ids, torch.zeros(4, CONTEXT - length, dtype=torch.long)], dim=1)
                assert_same(plan(longer), plan(ids))


def test_the_end_of_text_cannot_be_the_padding_id() -> None:
    assert plan_of(small_model(text={"pool_type": "eos", "eos_id": 0})).pad is None


def test_siglip_reads_its_padding_and_has_no_padding_id(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_siglip("vit_base_patch16_siglip_224", monkeypatch)
    assert plan_of(model.text).pad is None
    plan, graphs = plan_of(model.visual), FakeGraphs()
    compute = GraphCache(plan, ImageShapes(plan.tokens), graphs)
    with torch.inference_mode():
        assert_same(compute(random_images(3)), model.encode_image(random_images(3)))
    assert graphs.shapes == [(4, 3, 32, 32)]


@pytest.mark.parametrize("inference", [True, False])
def test_a_replay_gives_the_numbers_of_its_batch_and_not_of_the_last_one(inference: bool) -> None:
    model, graphs = small_model(), FakeGraphs()
    of_pictures, of_captions = plan_of(model.visual), plan_of(model)
    images = GraphCache(of_pictures, ImageShapes(of_pictures.tokens), graphs)
    texts = GraphCache(of_captions, TextShapes(CONTEXT, of_captions.pad), graphs)
    with torch.inference_mode(inference), torch.no_grad():
        for rows, length in ((8, CONTEXT), (5, 3), (7, 9), (1, 1), (6, CONTEXT)):
            ids = random_texts(rows, length)
            assert_same(images(random_images(rows)), model.encode_image(random_images(rows)))
            assert_same(texts(ids), model.encode_text(ids))
    assert graphs.shapes == [
        (8, 3, 32, 32),
        (8, CONTEXT),
        (1, 3, 32, 32),
        (1, CONTEXT),
    ]


def test_a_batch_of_another_dtype_has_a_graph_of_its_own() -> None:
    graphs = FakeGraphs()
    compute = GraphCache(lambda batch: batch.float(), TextShapes(CONTEXT, 0), graphs)
    for dtype in (torch.long, torch.int32, torch.long):
        assert compute(torch.full((2, CONTEXT), END, dtype=dtype)).eq(END).all()
    assert graphs.shapes == [(2, CONTEXT)] * 2


def test_large_batches_have_no_graph() -> None:
    graphs = FakeGraphs()
    compute = GraphCache(lambda batch: batch[:, 0, 0], ImageShapes(tokens=MAX_TOKENS // 8), graphs)
    assert compute(torch.ones(9, 3, 1, 1)).shape == (9, 1)
    assert graphs.shapes == []
    compute(torch.ones(8, 3, 1, 1))
    assert len(graphs.shapes) == 1


def test_the_least_recently_used_graph_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_cache, "MAX_GRAPHS", 2)
    graphs = FakeGraphs()
    compute = GraphCache(lambda batch: batch[:, 0, 0], ImageShapes(tokens=1), graphs)
    for rows in (1, 2, 1, 4, 1, 2):
        compute(torch.ones(rows, 3, 1, 1))
    assert [shape[0] for shape in graphs.shapes] == [1, 2, 4, 2]


# ------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (CaptureError("a step waits"), "a step waits"),
    ],
)
def test_a_failed_capture_turns_graphs_off(error: Exception, words: str) -> None:
    graphs = FakeGraphs(error)
    compute = GraphCache(lambda batch: 2 * batch[:, 0, 0], ImageShapes(tokens=1), graphs)
    for _ in range(3):
        assert compute(torch.ones(3, 3, 1, 1)).eq(2).all()
    assert len(graphs.shapes) == 1, "the capture was tried again"
    assert compute.remark.startswith("; CUDA graphs are off")
    assert words in compute.remark


def test_graphs_are_dropped_when_memory_runs_out() -> None:
    failures = 1

    def tight(batch: Tensor) -> Tensor:
        nonlocal failures
        if len(batch) > 512 and failures:
            failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch[:, 0, 0]

    compute = GraphCache(tight, ImageShapes(tokens=1), FakeGraphs())
    compute(torch.ones(4, 3, 1, 1))
    assert len(compute(torch.ones(600, 3, 1, 1))) == 600
    failures = 1
    with pytest.raises(torch.OutOfMemoryError):  # the caller halves the batch
        compute(torch.ones(600, 3, 1, 1))


def test_every_thread_gets_its_own_numbers() -> None:
    compute = GraphCache(lambda batch: batch[:, 0, 0].clone(), ImageShapes(tokens=1), FakeGraphs())
    wrong = []

    def work(number: int) -> None:
        for _ in range(50):
            if not compute(torch.full((3, 3, 1, 1), float(number))).eq(number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ------------------------------------------------------------------------------------------------- words


def test_a_precision_without_a_plan_is_left_to_the_plain_module() -> None:
    for precision, device in (("int8", "cuda"), ("fp16", "cpu")):
        with pytest.raises(PlanUnsupported, match=f"no plan in {precision} on {device}"):
            _kernels(precision, torch.device(device))
    plan = make_image_plan(small_model(), "fp16")
    with torch.inference_mode():
        assert plan(random_images()) is None
    assert "no plan in fp16 on cpu" in plan.describe()


def test_the_precisions_of_a_gpu_are_described() -> None:
    assert gpu_descriptions(has_bf16=True).keys() == {"fp32", "bf16", "fp16", "int8"}
    assert "use fp16" in gpu_descriptions(has_bf16=False)["bf16"]
