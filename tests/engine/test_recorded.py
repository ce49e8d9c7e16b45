"""What a GPU's plan does around its graphs, on a CPU: shapes, padding, memory that runs out, threads."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_plans import CONTEXT, END, TEXT, assert_same, captions, model_of, pictures, small_siglip
from torch import Tensor

from oneclip.engine import graph_cache
from oneclip.engine.graph_cache import Compute, NotRecorded, Recorded
from oneclip.engine.graph_shapes import LENGTHS, ROWS, TOKENS, Captions, Pictures
from oneclip.engine.guards import Unplanned
from oneclip.engine.plan import _kernels, image_plan
from oneclip.engine.precision import PLANNED, gpu_descriptions, kernels_for
from oneclip.engine.text_plan import TextPlan
from oneclip.engine.vision_plan import SigLIPPlan, VisionPlan


class Recordings:
    """What CUDA graphs do, by computing: one input for each shape, in which the last batch still stands."""

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
    """As on a GPU."""
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
def test_pictures_are_filled_up_while_the_gpu_waits_for_the_processor(rows: int, bucket: int | None) -> None:
    found = Pictures(tokens=50).bucket((rows, 3, 224, 224))
    assert found == (None if bucket is None else (bucket, 3, 224, 224))


@pytest.mark.parametrize(
    ("shape", "bucket"),
    [((5, 3), (8, 16)), ((5, 16), (8, 16)), ((2, 17), (2, 32)), ((1, 65), (1, 77)), ((300, 77), None)],
)
def test_captions_are_filled_up_in_both_ways(shape: tuple[int, int], bucket: tuple[int, int] | None) -> None:
    assert Captions(context=77, pad=0).bucket(shape) == bucket


def test_no_caption_is_longer_than_the_context() -> None:
    assert Captions(context=12, pad=0).bucket((1, 3)) == (1, 12)
    assert Captions(context=32, pad=0).bucket((1, 30)) == (1, 32)


def test_where_nothing_may_follow_a_caption_only_whole_rows_are_recorded() -> None:
    assert Captions(context=64, pad=None).bucket((3, 64)) == (4, 64)
    assert Captions(context=64, pad=None).bucket((3, 20)) is None


def test_no_recording_is_larger_than_the_bound() -> None:
    for length in (*LENGTHS, 77):
        for rows in range(1, 2 * max(ROWS)):
            shape = Captions(context=77, pad=0).bucket((rows, length))
            assert shape is None or (shape[0] >= rows and shape[0] * shape[1] <= TOKENS)


# ------------------------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
@pytest.mark.parametrize("precision", PLANNED["cuda"])
def test_the_plan_of_a_gpu_gives_the_modules_numbers(precision: str, quick_gelu: bool) -> None:
    model = model_of(quick_gelu=quick_gelu)
    with torch.inference_mode():
        found = plan_of(model.visual, precision)(pictures())
        assert_same(found, model.encode_image(pictures()), "fp32" if precision == "fp32" else "bf16")
        found = plan_of(model, precision)(captions())
        assert_same(found, model.encode_text(captions()), "fp32" if precision == "fp32" else "bf16")


@pytest.mark.parametrize("option", TEXT)
def test_what_follows_a_caption_changes_nothing_where_it_is_said_so(option: str) -> None:
    custom = option == "class_token"
    model = model_of(text=TEXT[option], custom_text=custom)
    tower = model.text if custom else model
    plan = plan_of(tower)
    exact = option not in ("first", "last", "no_causal_mask", "class_token")
    assert plan.pad == (0 if exact else None)
    if exact:
        with torch.inference_mode():
            for length in range(1, CONTEXT):
                ids = captions(4, length)
                longer = torch.cat([ids, torch.zeros(4, CONTEXT - length, dtype=torch.long)], dim=1)
                assert_same(plan(longer), plan(ids))


def test_padding_that_would_be_the_end_of_text_is_none() -> None:
    assert plan_of(model_of(text={"pool_type": "eos", "eos_id": 0})).pad is None


def test_siglip_reads_its_padding_and_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_siglip("vit_base_patch16_siglip_224", monkeypatch)
    assert plan_of(model.text).pad is None
    plan, recordings = plan_of(model.visual), Recordings()
    compute = Recorded(plan, Pictures(plan.tokens), recordings)
    with torch.inference_mode():
        assert_same(compute(pictures(3)), model.encode_image(pictures(3)))
    assert recordings.shapes == [(4, 3, 32, 32)]


@pytest.mark.parametrize("inference", [True, False])
def test_recordings_give_the_numbers_of_each_batch_and_none_of_the_last_one(inference: bool) -> None:
    model, recordings = model_of(), Recordings()
    of_pictures, of_captions = plan_of(model.visual), plan_of(model)
    images = Recorded(of_pictures, Pictures(of_pictures.tokens), recordings)
    texts = Recorded(of_captions, Captions(CONTEXT, of_captions.pad), recordings)
    with torch.inference_mode(inference), torch.no_grad():
        for rows, length in ((8, CONTEXT), (5, 3), (7, 9), (1, 1), (6, CONTEXT)):
            ids = captions(rows, length)
            assert_same(images(pictures(rows)), model.encode_image(pictures(rows)))
            assert_same(texts(ids), model.encode_text(ids))
    assert recordings.shapes == [
        (8, 3, 32, 32),
        (8, CONTEXT),
        (1, 3, 32, 32),
        (1, CONTEXT),
    ]


def test_a_batch_of_another_precision_has_a_recording_of_its_own() -> None:
    recordings = Recordings()
    compute = Recorded(lambda batch: batch.float(), Captions(CONTEXT, 0), recordings)
    for dtype in (torch.long, torch.int32, torch.long):
        assert compute(torch.full((2, CONTEXT), END, dtype=dtype)).eq(END).all()
    assert recordings.shapes == [(2, CONTEXT)] * 2


def test_large_batches_are_computed_as_they_are() -> None:
    recordings = Recordings()
    compute = Recorded(lambda batch: batch[:, 0, 0], Pictures(tokens=TOKENS // 8), recordings)
    assert compute(torch.ones(9, 3, 1, 1)).shape == (9, 1)
    assert recordings.shapes == []
    compute(torch.ones(8, 3, 1, 1))
    assert len(recordings.shapes) == 1


def test_the_longest_unused_recording_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_cache, "MOST", 2)
    recordings = Recordings()
    compute = Recorded(lambda batch: batch[:, 0, 0], Pictures(tokens=1), recordings)
    for rows in (1, 2, 1, 4, 1, 2):
        compute(torch.ones(rows, 3, 1, 1))
    assert [shape[0] for shape in recordings.shapes] == [1, 2, 4, 2]


# ------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("error", "words"),
    [(torch.OutOfMemoryError("CUDA out of memory"), "memory"), (NotRecorded("a step waits"), "a step waits")],
)
def test_what_cannot_be_recorded_is_computed_as_it_is(error: Exception, words: str) -> None:
    recordings = Recordings(error)
    compute = Recorded(lambda batch: 2 * batch[:, 0, 0], Pictures(tokens=1), recordings)
    for _ in range(3):
        assert compute(torch.ones(3, 3, 1, 1)).eq(2).all()
    assert len(recordings.shapes) == 1, "it was tried again"
    assert compute.remark.startswith("; nothing is recorded")
    assert words in compute.remark


def test_recordings_make_room_for_what_does_not_fit_beside_them() -> None:
    failures = 1

    def tight(batch: Tensor) -> Tensor:
        nonlocal failures
        if len(batch) > 512 and failures:
            failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch[:, 0, 0]

    compute = Recorded(tight, Pictures(tokens=1), Recordings())
    compute(torch.ones(4, 3, 1, 1))
    assert len(compute(torch.ones(600, 3, 1, 1))) == 600
    failures = 1
    with pytest.raises(torch.OutOfMemoryError):  # which then is halved by whoever asked
        compute(torch.ones(600, 3, 1, 1))


def test_every_thread_gets_its_own_numbers() -> None:
    compute = Recorded(lambda batch: batch[:, 0, 0].clone(), Pictures(tokens=1), Recordings())
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


def test_a_precision_that_a_device_has_no_plan_for_is_the_modules() -> None:
    for precision, device in (("int8", "cuda"), ("fp16", "cpu")):
        with pytest.raises(Unplanned, match=f"no plan in {precision} on {device}"):
            _kernels(precision, torch.device(device))
    plan = image_plan(model_of(), "fp16")
    with torch.inference_mode():
        assert plan(pictures()) is None
    assert "no plan in fp16 on cpu" in plan.describe()


def test_a_gpus_precisions_are_described() -> None:
    assert gpu_descriptions(has_bf16=True).keys() == {"fp32", "bf16", "fp16", "int8"}
    assert "take fp16" in gpu_descriptions(has_bf16=False)["bf16"]
