"""Encoder of images and texts, and the function that loads one by name."""

from oneclip.encoder.encoder import Encoder
from oneclip.encoder.loading import load
from oneclip.encoding.encoded import Encoded, Features, Images, Labels, Ranking

__all__ = ["Encoded", "Encoder", "Features", "Images", "Labels", "Ranking", "load"]
