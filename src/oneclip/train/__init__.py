"""Training on one or many processes, with checkpoints that resume exactly."""

from oneclip.config import RunCfg, TrainCfg
from oneclip.train.checkpointing.checkpoint import latest_checkpoint, read_checkpoint
from oneclip.train.checkpointing.dcp import consolidate
from oneclip.train.data.batches import Batch, BatchSource, Prefetcher, Prepare
from oneclip.train.distributed.world import World, end_distributed, init_distributed
from oneclip.train.forward import Features
from oneclip.train.loop import FitResult, Reporter, Trainer
from oneclip.train.objectives import Objective, make_objective
from oneclip.train.optimizer import make_optimizer, parameter_groups
from oneclip.train.reporting.metrics import TrainingReport
from oneclip.train.reporting.progress_bar import ProgressBar
from oneclip.train.schedule import learning_rate
from oneclip.train.step import Stepper

__all__ = [
    "Batch",
    "BatchSource",
    "Features",
    "FitResult",
    "Objective",
    "Prefetcher",
    "Prepare",
    "ProgressBar",
    "Reporter",
    "RunCfg",
    "Stepper",
    "TrainCfg",
    "Trainer",
    "TrainingReport",
    "World",
    "consolidate",
    "end_distributed",
    "init_distributed",
    "latest_checkpoint",
    "learning_rate",
    "make_objective",
    "make_optimizer",
    "parameter_groups",
    "read_checkpoint",
]
