"""Core of all encoders, without torch: batches, results, labels."""

from oneclip.encoding.base import BaseEncoder
from oneclip.encoding.encoded import Encoded, Features, Images, Labels, Ranking

__all__ = ["BaseEncoder", "Encoded", "Features", "Images", "Labels", "Ranking"]
