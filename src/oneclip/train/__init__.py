"""Training: batches, steps, checkpoints that resume exactly, on one process or on many."""

from oneclip.config import RunCfg, TrainCfg
from oneclip.train.checkpointing.checkpoint import latest_checkpoint, read_checkpoint
from oneclip.train.checkpointing.dcp import consolidate
from oneclip.train.data.batches import Batch, BatchSource, Prefetcher, Prepare
from oneclip.train.distributed.world import World, join, leave
from oneclip.train.forward import Features
from oneclip.train.loop import Outcome, Reporter, Trainer
from oneclip.train.objectives import Objective, make_objective
from oneclip.train.optimizer import make_optimizer, parameter_groups
from oneclip.train.reporting.metrics import Report
from oneclip.train.reporting.progress_bar import ProgressBar
from oneclip.train.schedule import learning_rate

__all__ = [
    "Batch",
    "BatchSource",
    "Features",
    "Objective",
    "Outcome",
    "Prefetcher",
    "Prepare",
    "ProgressBar",
    "Report",
    "Reporter",
    "RunCfg",
    "TrainCfg",
    "Trainer",
    "World",
    "consolidate",
    "join",
    "latest_checkpoint",
    "learning_rate",
    "leave",
    "make_objective",
    "make_optimizer",
    "parameter_groups",
    "read_checkpoint",
]
