"""Training data: datasets of image-caption pairs, their order, and batches of them."""

from oneclip.train.data.batch_reader import Transform
from oneclip.train.data.dataset import PairDataset, Sample
from oneclip.train.data.hf_dataset import HFDataset
from oneclip.train.data.image_folder import ImageFolderDataset
from oneclip.train.data.loader import BatchLoader
from oneclip.train.data.mixture import MixtureDataset
from oneclip.train.data.open_dataset import open_dataset
from oneclip.train.data.pairs_table import TableDataset
from oneclip.train.data.sampler import SourceRange, StreamSampler
from oneclip.train.data.synthetic import SyntheticDataset
from oneclip.train.data.webdataset import WebDataset

__all__ = [
    "BatchLoader",
    "HFDataset",
    "ImageFolderDataset",
    "MixtureDataset",
    "PairDataset",
    "Sample",
    "SourceRange",
    "StreamSampler",
    "SyntheticDataset",
    "TableDataset",
    "Transform",
    "WebDataset",
    "open_dataset",
]
