"""Where pairs for training come from: samples by number, their order, and batches of them."""

from oneclip.train.data.batch_reader import Transform
from oneclip.train.data.class_folder import ClassSamples
from oneclip.train.data.hf_dataset import DatasetSamples
from oneclip.train.data.loader import Loader
from oneclip.train.data.mixture import Mixture
from oneclip.train.data.open_dataset import open_samples
from oneclip.train.data.pairs_table import TableSamples
from oneclip.train.data.sampler import Order, Part
from oneclip.train.data.samples import Sample, Samples
from oneclip.train.data.synthetic import SyntheticSamples
from oneclip.train.data.webdataset import ShardSamples

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
