"""Models behind the interfaces of other packages: sentence-transformers and MTEB.

    from oneclip.adapters import MTEBEncoder, SentenceEncoder, SentenceModule

Importing this package imports none of the packages.
"""

from oneclip.adapters.mteb import MTEBEncoder
from oneclip.adapters.sentence_transformers import SentenceEncoder, SentenceModule

__all__ = ["MTEBEncoder", "SentenceEncoder", "SentenceModule"]
