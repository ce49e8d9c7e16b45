"""Clean texts and convert them to token ids.

`get_tokenizer` makes the tokenizer that a text tower was trained with: CLIP's own (`CLIPTokenizer`), or one from
Hugging Face files (`HFTokenizer`). `clean_text` is the cleaning that comes before.
"""

from oneclip.text.clean import clean_text
from oneclip.text.clip.tokenizer import CLIPTokenizer
from oneclip.text.factory import get_tokenizer, tokenizer_files, write_tokenizer
from oneclip.text.hf.tokenizer import HFTokenizer
from oneclip.text.protocol import Tokenizer

__all__ = [
    "CLIPTokenizer",
    "HFTokenizer",
    "Tokenizer",
    "clean_text",
    "get_tokenizer",
    "tokenizer_files",
    "write_tokenizer",
]
