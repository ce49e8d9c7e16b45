"""How a model learns: batches, steps, checkpoints that resume exactly."""

from oneclip.train.batches import Batch, BatchSource, Prefetcher, Prepare
from oneclip.train.checkpoints import latest_checkpoint, read_checkpoint
from oneclip.train.config import TrainCfg
from oneclip.train.loop import Features, Outcome, Reporter, Trainer
from oneclip.train.metrics import Report
from oneclip.train.optimizer import make_optimizer, parameter_groups
from oneclip.train.progress import ProgressBar
from oneclip.train.schedule import learning_rate

__all__ = [
    "Batch",
    "BatchSource",
    "Features",
    "Outcome",
    "Prefetcher",
    "Prepare",
    "ProgressBar",
    "Report",
    "Reporter",
    "TrainCfg",
    "Trainer",
    "latest_checkpoint",
    "learning_rate",
    "make_optimizer",
    "parameter_groups",
    "read_checkpoint",
]
