"""What would end a training after hours, looked for before its first step."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oneclip.errors import ConfigError, OutputError
from oneclip.text import Tokenizer
from oneclip.train.checkpointing.checkpoint import checkpoints_bytes
from oneclip.train.data.batches import Batch
from oneclip.train.initial_model import Start
from oneclip.train.loop import Trainer
from oneclip.train.reporting.step_stats import Meter

ADAM_BYTES = 8  # two moments in fp32 for each trained number
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def preflight(trainer: Trainer, start: Start) -> Iterator[str]:
    """Check what a training needs; a line for each check that held.

    Reads batches from the beginning and the middle, runs one forward and backward pass, and writes a small file.
    The trainer is afterwards as it was.

    Args:
        trainer: ready to `fit`.
        start: what its model started from.

    Raises:
        DataError: if the data cannot be read.
        ConfigError: if tokenizer and model do not agree, or the batch does not fit.
        OutputError: if the folder cannot be written, or the disk has no room for the checkpoints.
    """
    if trainer.out is not None and trainer.world.is_first:
        yield check_disk(trainer, trainer.out)
    batch, line = check_data(trainer)
    yield line
    yield check_shards(trainer)
    yield check_tokenizer(start, batch)
    yield check_memory(trainer, batch)


def check_data(trainer: Trainer) -> tuple[Batch, str]:
    """Read the next batch and one from half-way, through all that happens to them on this side of the device."""
    cfg, began = trainer.cfg, time.perf_counter()
    first = trainer.step * cfg.accumulate
    numbers = sorted({first, max(first, cfg.steps * cfg.accumulate // 2)})
    batches = [trainer.prepare.on_host(Batch(*trainer.source.batch(number))) for number in numbers]
    pairs = sum(len(batch.images) for batch in batches)
    rate = pairs / max(time.perf_counter() - began, 1e-9)
    longest = max(_length(batch.texts) for batch in batches)
    return batches[0], f"data: {pairs} pairs read, {rate:,.0f} a second; captions of up to {longest} tokens"


def check_shards(trainer: Trainer) -> str:
    """Whether there are as many shards as processes that read, where the data is in shards.

    Fewer are no error: every process reads what it needs of any shard. But they then wait for the same few files.
    """
    shards = getattr(getattr(trainer.source, "samples", None), "places", None)
    readers = trainer.world.size * max(1, int(getattr(trainer.source, "workers", 0)))
    if not isinstance(shards, Sized):
        return "shards: the data has none"
    advice = "" if len(shards) >= readers else "; more of them would spread the reading"
    return f"shards: {len(shards)} for {readers} readers{advice}"


def check_tokenizer(start: Start, batch: Batch) -> str:
    """Whether the ids that the tokenizer makes are ids of the model, and no more of them than it takes."""
    tokenizer: Tokenizer = start.tokenizer
    context, known = start.cfg.text_cfg.context_length, vocabulary_size(start.model)
    assert isinstance(batch.texts, torch.Tensor)
    used = int(batch.texts.max()) + 1
    if tokenizer.context_length is not None and tokenizer.context_length != context:
        raise ConfigError(
            f"the tokenizer makes {tokenizer.context_length} ids a caption, and the model takes {context}; give both "
            "the same context_length"
        )
    if known is not None and max(used, tokenizer.vocab_size) > known:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} ids, and the model knows {known}; give the model the tokenizer "
            "that it was made for, or a vocab_size that holds all ids"
        )
    return f"tokenizer: {tokenizer.vocab_size} ids of {known or 'an unknown number'}, {context} a caption"


def vocabulary_size(model: nn.Module) -> int | None:
    """How many ids the text tower of a model has embeddings for; None if it does not show."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(("token_embedding", "word_embeddings")):
            return module.num_embeddings
    return None


def check_memory(trainer: Trainer, batch: Batch) -> str:
    """Run one step's forward and backward pass; if it does not fit, find how much would."""
    pairs = len(batch.images)
    if fits(trainer, batch):
        return f"memory: a batch of {pairs} pairs fits{_peak(trainer.device)}"
    half = pairs // 2
    while half and not fits(trainer, first_of(batch, half)):
        half //= 2
    largest = f"{half} pairs fit" if half else "not even one pair fits"
    raise ConfigError(
        f"a batch of {pairs} pairs does not fit into the memory of {trainer.device}; {largest}. Use a smaller "
        "batch_size (with accumulate, the step stays as large), grad_checkpointing, bf16, or a smaller model"
    )


def fits(trainer: Trainer, batch: Batch) -> bool:
    """Whether a forward and backward pass of a batch finds the memory that it needs, the optimizer's included."""
    device = trainer.device
    try:
        with _untouched(trainer):
            moments = _moments(trainer) if device.type == "cuda" else None
            trainer.backward(batch, Meter(0, 1))
            del moments
    except (torch.OutOfMemoryError, MemoryError):
        return False
    except RuntimeError as error:
        if any(words in str(error) for words in NO_MEMORY):
            return False
        raise
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def first_of(batch: Batch, count: int) -> Batch:
    """The first pairs of a batch."""
    extra = {name: tensor[:count] for name, tensor in batch.extra.items()}
    return Batch(batch.images[:count], batch.texts[:count], extra)


def check_disk(trainer: Trainer, folder: Path) -> str:
    """Whether the folder can be written, and has room for the checkpoints and the model."""
    probe = folder / ".preflight"
    try:
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror}; make room, or choose another folder"
        ) from error
    each, model = checkpoint_bytes(trainer)
    kept = _checkpoints(trainer) if trainer.cfg.keep == 0 else min(trainer.cfg.keep, _checkpoints(trainer))
    needed = each * (kept + 1) + model  # one more while it takes the place of another
    there = checkpoints_bytes(folder)
    free = shutil.disk_usage(folder).free + there
    if needed > free:
        raise OutputError(
            f"{folder} has {_gb(free)} free, and {kept} checkpoints of {_gb(each)} with the model need about "
            f"{_gb(needed)}; make room, keep fewer (keep, now {trainer.cfg.keep}), or choose another folder"
        )
    return f"disk: {_gb(needed)} of {_gb(free)} for {kept} checkpoints and the model"


def checkpoint_bytes(trainer: Trainer) -> tuple[int, int]:
    """About how large a checkpoint is, and a model alone."""
    tensors = trainer.model.state_dict().values()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    trained = sum(p.numel() for group in trainer.optimizer.param_groups for p in group["params"])
    return weights + ADAM_BYTES * trained, weights


def _checkpoints(trainer: Trainer) -> int:
    """How many will be written."""
    cfg = trainer.cfg
    every = [steps for steps in (cfg.steps_per_epoch, cfg.checkpoint_every) if steps]
    return max(1, sum(int(cfg.steps / max(1, steps)) for steps in every))


def _moments(trainer: Trainer) -> list[torch.Tensor]:
    """Memory that the optimizer will want, unless it holds it already."""
    if trainer.optimizer.state:
        return []
    trained = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    return [torch.empty_like(p) for p in trained for _ in range(2)]


@contextmanager
def _untouched(trainer: Trainer) -> Iterator[None]:
    """Have random states, buffers, gradients and the mode of a trainer's model afterwards as they were."""
    model, was_training = trainer.model, trainer.model.training
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    model.train()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        trainer.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        model.train(was_training)


def _length(texts: Any) -> int:
    return int(texts.shape[1])


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    _, total = torch.cuda.mem_get_info(device)
    return f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} of {total / 2**30:.1f} GiB"


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
