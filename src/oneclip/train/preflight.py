"""Checks before the first step of a training: disk, data, tokenizer and memory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from oneclip.engine import is_out_of_memory
from oneclip.errors import ConfigError, OutputError
from oneclip.text import Tokenizer
from oneclip.train.checkpointing.checkpoint import total_checkpoint_bytes
from oneclip.train.data.batches import Batch
from oneclip.train.initial_model import InitialModel
from oneclip.train.loop import Trainer
from oneclip.train.reporting.step_stats import StepMeter

ADAM_BYTES = 8  # two fp32 moments for each trained parameter


def preflight(trainer: Trainer, start: InitialModel) -> Iterator[str]:
    """Check what a training needs, and yield a line for each passed check.

    Reads batches from the beginning and the middle, runs one forward and backward pass, and writes a small file.
    Does not change the trainer.

    Args:
        trainer: ready to `fit`.
        start: its initial model.

    Raises:
        DataError: if the data cannot be read.
        ConfigError: if tokenizer and model do not match, or the batch does not fit into memory.
        OutputError: if the folder cannot be written, or the disk is too full for the checkpoints.
    """
    if trainer.out is not None and trainer.world.is_rank_zero:
        yield check_disk(trainer, trainer.out)
    batch, line = check_data(trainer)
    yield line
    yield check_shards(trainer)
    yield check_tokenizer(start, batch)
    yield check_memory(trainer, batch)


def check_data(trainer: Trainer) -> tuple[Batch, str]:
    """Read and prepare the next batch and one from the middle of the training."""
    cfg, began = trainer.cfg, time.perf_counter()
    first = trainer.step * cfg.grad_accum_steps
    numbers = sorted({first, max(first, cfg.steps * cfg.grad_accum_steps // 2)})
    batches = [trainer.prepare.on_host(Batch(*trainer.source.batch(number))) for number in numbers]
    pairs = sum(len(batch.images) for batch in batches)
    rate = pairs / max(time.perf_counter() - began, 1e-9)
    longest = max(int(batch.texts.shape[1]) for batch in batches if isinstance(batch.texts, torch.Tensor))
    line = (
        f"data: {pairs} pairs read, {rate:,.0f} a second; "
        f"captions in the batches that were read have up to {longest} tokens"
    )
    return batches[0], line


def check_shards(trainer: Trainer) -> str:
    """Compare the number of shards with the number of reading processes.

    Fewer shards are not an error, because every process can read any shard, but processes then share few files.
    """
    shards = getattr(getattr(trainer.source, "dataset", None), "places", None)
    readers = trainer.world.size * max(1, int(getattr(trainer.source, "workers", 0)))
    if not isinstance(shards, Sized):
        return "shards: the data is not in shards"
    advice = "" if len(shards) >= readers else "; more shards would be read in parallel"
    return f"shards: {len(shards)} for {readers} readers{advice}"


def check_tokenizer(start: InitialModel, batch: Batch) -> str:
    """Check that the model has all token ids of the tokenizer, and the same context length."""
    tokenizer: Tokenizer = start.tokenizer
    context, available = start.cfg.text_cfg.context_length, vocabulary_size(start.model)
    assert isinstance(batch.texts, torch.Tensor)
    used = int(batch.texts.max()) + 1
    if tokenizer.context_length is not None and tokenizer.context_length != context:
        raise ConfigError(
            f"the tokenizer has context_length {tokenizer.context_length}, and the model {context}; give both the same"
        )
    if available is not None and max(used, tokenizer.vocab_size) > available:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} token ids, and the model {available}; use the tokenizer of the "
            "model, or a model with a larger vocab_size"
        )
    return f"tokenizer: {tokenizer.vocab_size} ids of {available or 'an unknown number'}, {context} a caption"


def vocabulary_size(model: nn.Module) -> int | None:
    """Return the number of token embeddings of the text tower of a model, or None if unknown."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(("token_embedding", "word_embeddings")):
            return module.num_embeddings
    return None


def check_memory(trainer: Trainer, batch: Batch) -> str:
    """Run one forward and backward pass. If the batch does not fit, find the largest one that does."""
    pairs = len(batch.images)
    if fits(trainer, batch):
        return f"memory: a batch of {pairs} pairs fits{_peak(trainer.device)}"
    half = pairs // 2
    while half and not fits(trainer, first_of(batch, half)):
        half //= 2
    largest = f"{half} pairs fit" if half else "not even one pair fits"
    raise ConfigError(
        f"a batch of {pairs} pairs does not fit into the memory of {trainer.device}; {largest}. Use a smaller "
        "batch_size (grad_accum_steps can keep the pairs of a step), grad_checkpointing, bf16, or a smaller model"
    )


def fits(trainer: Trainer, batch: Batch) -> bool:
    """Return True if a forward and backward pass of a batch fits into memory, together with the optimizer state."""
    device = trainer.device
    try:
        with _preserved(trainer):
            moments = _moments(trainer) if device.type == "cuda" else None
            trainer.stepper.backward(batch, StepMeter(0, 1))
            del moments
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def first_of(batch: Batch, count: int) -> Batch:
    """Return the first pairs of a batch."""
    extra = {name: tensor[:count] for name, tensor in batch.extra.items()}
    return Batch(batch.images[:count], batch.texts[:count], extra)


def check_disk(trainer: Trainer, folder: Path) -> str:
    """Check that the folder can be written, and has space for the checkpoints and the model."""
    probe = folder / ".preflight"
    try:
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror}; free some space, or choose another folder"
        ) from error
    each, model = checkpoint_bytes(trainer)
    limit = trainer.cfg.keep_checkpoints
    count = _checkpoint_count(trainer)
    kept = min(limit, count) if limit else count
    checkpoints = f"{kept} checkpoint{'s' * (kept > 1)}"
    needed = each * (kept + 1) + model  # one more, written before an old one is deleted
    existing = total_checkpoint_bytes(folder)
    free = shutil.disk_usage(folder).free + existing
    if needed > free:
        raise OutputError(
            f"{folder} has {_gb(free)} free, and {checkpoints} of {_gb(each)} with the model need about "
            f"{_gb(needed)}; free some space, keep fewer (keep_checkpoints, now {limit}), or choose another folder"
        )
    return f"disk: {_gb(needed)} of {_gb(free)} for {checkpoints} and the model"


def checkpoint_bytes(trainer: Trainer) -> tuple[int, int]:
    """Estimate the bytes of a checkpoint, and of the model alone."""
    tensors = trainer.model.state_dict().values()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    trained = sum(p.numel() for group in trainer.stepper.optimizer.param_groups for p in group["params"])
    return weights + ADAM_BYTES * trained, weights


def _checkpoint_count(trainer: Trainer) -> int:
    """Return the number of checkpoints that the training writes."""
    cfg = trainer.cfg
    every = [steps for steps in (cfg.steps_per_epoch, cfg.checkpoint_every) if steps]
    return max(1, sum(int(cfg.steps / max(1, steps)) for steps in every))


def _moments(trainer: Trainer) -> list[torch.Tensor]:
    """Allocate the memory of the optimizer state, unless it exists already."""
    if trainer.stepper.optimizer.state:
        return []
    trained = [p for group in trainer.stepper.optimizer.param_groups for p in group["params"]]
    return [torch.empty_like(p) for p in trained for _ in range(2)]


@contextmanager
def _preserved(trainer: Trainer) -> Iterator[None]:
    """Restore random states, buffers, gradients and training mode at exit."""
    model, was_training = trainer.model, trainer.model.training
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    model.train()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        trainer.stepper.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        model.train(was_training)


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    _, total = torch.cuda.mem_get_info(device)
    return f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} of {total / 2**30:.1f} GiB"


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
