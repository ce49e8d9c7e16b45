"""What every text tower does alike: which token ids it takes, and whether it may look at them.

Shapes: B batch, L tokens.
"""

from torch import Tensor

from oneclip.errors import TokenRangeError
from oneclip.model.scripting import is_recorded


def may_trim() -> bool:
    """Whether a length may depend on the data: not while a graph is recorded, which must serve other captions."""
    return not is_recorded()


def are_at_hand(text: Tensor) -> bool:
    """Whether ids can be looked at without a device stalling; fake tensors hold none."""
    return type(text) is Tensor and text.device.type == "cpu" and text.numel() > 0


def check_vocabulary(text: Tensor, vocab_size: int | None) -> None:
    """Raise TokenRangeError unless all ids (B, L) are in the vocabulary; None stands for any."""
    if vocab_size is None:
        return
    low, high = (int(bound) for bound in text.aminmax())
    if low < 0 or high >= vocab_size:
        raise TokenRangeError(
            f"token id {low if low < 0 else high} is outside the vocabulary, whose ids are 0 to "
            f"{vocab_size - 1}; was the text tokenized for another model?"
        )


def without_padding(text: Tensor, pad_id: int) -> Tensor:
    """Cut off the columns at the end that are padding in every caption: (B, L) -> (B, L'), 1 <= L' <= L."""
    real = (text != pad_id).any(dim=0).nonzero()
    return text[:, : 1 + int(real[-1])] if len(real) else text[:, :1]
