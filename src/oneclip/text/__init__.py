"""How a caption becomes token ids.

`CLIPTokenizer` does it, `get_tokenizer` makes the one that a text tower was trained with, and `clean_text` is
the cleaning that comes first.
"""

from oneclip.text.clean import clean_text
from oneclip.text.protocol import Tokenizer
from oneclip.text.tokenizer import CLIPTokenizer, get_tokenizer

__all__ = ["CLIPTokenizer", "Tokenizer", "clean_text", "get_tokenizer"]
