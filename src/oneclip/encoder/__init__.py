"""The object most people use: pictures and captions to unit vectors and probabilities.

`load` makes an `Encoder` of a name.
"""

from oneclip.encoder.encoder import Encoded, Encoder, Features, Labels, Pictures, Ranking
from oneclip.encoder.loading import load

__all__ = ["Encoded", "Encoder", "Features", "Labels", "Pictures", "Ranking", "load"]
