"""Where pairs for training come from: samples by number, their order, and batches of them."""

from oneclip.train.sources.classes import ClassSamples
from oneclip.train.sources.datasets import DatasetSamples
from oneclip.train.sources.loader import Loader
from oneclip.train.sources.mixture import Mixture
from oneclip.train.sources.open import open_samples
from oneclip.train.sources.order import Order, Part
from oneclip.train.sources.reader import Transform
from oneclip.train.sources.samples import Sample, Samples
from oneclip.train.sources.shards import ShardSamples
from oneclip.train.sources.synthetic import SyntheticSamples
from oneclip.train.sources.tables import TableSamples

__all__ = [
    "ClassSamples",
    "DatasetSamples",
    "Loader",
    "Mixture",
    "Order",
    "Part",
    "Sample",
    "Samples",
    "ShardSamples",
    "SyntheticSamples",
    "TableSamples",
    "Transform",
    "open_samples",
]
