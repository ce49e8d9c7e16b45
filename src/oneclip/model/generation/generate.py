"""Caption generation: check the prompt, then search with a caption reader.

Shapes: B images, L tokens of a prompt, T tokens of a caption, S tokens of an image, C width.
"""

import torch
from torch import Tensor, nn

from oneclip.errors import ConfigError, ShapeError, TokenRangeError
from oneclip.model.decoder import MultimodalTransformer
from oneclip.model.generation.beam_search import beam_search
from oneclip.model.generation.kv_cache import reader_for
from oneclip.model.generation.sampling import sample
from oneclip.model.generation.settings import GenerationCfg
from oneclip.model.text import TextTransformer


def generate(
    text: nn.Module,
    decoder: MultimodalTransformer,
    image_embs: Tensor,
    prompt: Tensor,
    cfg: GenerationCfg,
) -> Tensor:
    """Write captions.

    Args:
        text: the text tower, which returns its tokens.
        decoder: predicts the next token.
        image_embs: (B, S, C) tokens of the images.
        prompt: (R, L) ids that the captions begin with, R a multiple of B.
        cfg: how to search.

    Returns:
        (R, T) int64 ids, the prompt included.
    """
    window = min(cfg.max_seq_len, decoder.context_length)
    if isinstance(text, TextTransformer):
        window = min(window, text.context_length)
    search = beam_search if cfg.generation_type == "beam_search" else sample
    return search(reader_for(text, decoder, image_embs), prompt, cfg, window)


def expand_prompt(
    image: Tensor, text: Tensor | None, cfg: GenerationCfg, vocab_size: int, logit_count: int
) -> Tensor:
    """Make one row of ids for each caption.

    Args:
        image: (B, 3, H, W).
        text: (R, L) ids, R a multiple of B; (1, L) or (L,) for all images; None for the start of text.
        cfg: its ids are checked, too.
        vocab_size: of the text tower, which reads the prompt.
        logit_count: of the decoder, which predicts the end of text.

    Returns:
        (R, L) int64 ids on the device of the images.

    Raises:
        ShapeError: if the prompts do not fit the images.
        ConfigError: if a prompt is as long as the longest caption.
        TokenRangeError: on ids outside the vocabulary.
    """
    if text is None:
        prompt = torch.full((len(image), 1), cfg.sot_id, device=image.device)
    else:
        prompt = (text[None] if text.ndim == 1 else text).long().to(image.device)
        if prompt.ndim == 2 and len(prompt) == 1:
            prompt = prompt.expand(len(image), -1)
    if prompt.ndim != 2 or prompt.shape[1] < 1 or len(image) < 1 or len(prompt) % len(image):
        raise ShapeError(
            f"{len(image)} images need as many prompts of ids, (B, L) with L from 1 up, or one for all; found "
            f"{tuple(prompt.shape)}"
        )
    longest = cfg.longest
    if cfg.generation_type == "beam_search" and longest is not None and prompt.shape[1] >= longest:
        raise ConfigError(
            f"a beam search for captions of up to {longest} tokens cannot begin with {prompt.shape[1]}: give a larger "
            "seq_len (or max_length of the stopping criterion)"
        )
    for name, ids, count in (
        ("the prompt", (int(prompt.min()), int(prompt.max())), vocab_size),
        ("eos_token_id", cfg.eos_ids, logit_count),
    ):
        for token in ids:
            if not 0 <= token < count:
                raise TokenRangeError(
                    f"token id {token} in {name} is outside the vocabulary, whose ids are 0 to {count - 1}; give "
                    "sot_token_id, eos_token_id and text in the ids of the model's own tokenizer"
                )
    return prompt
