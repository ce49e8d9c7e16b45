"""CoCa: a dual encoder that also captions images (Yu et al. 2022).

Shapes: B batch, L tokens of a caption, S tokens of an image, C width, D joint embedding, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from oneclip.config import INIT_LOGIT_SCALE, CLIPTextCfg, CLIPVisionCfg, MultimodalCfg
from oneclip.errors import ConfigError, ShapeError
from oneclip.model.build import build_decoder, build_text_tower, build_visual_tower
from oneclip.model.clip import CustomTextCLIP
from oneclip.model.dual_encoder import DualEncoder, as_cfg
from oneclip.model.generation import GenerationCfg, expand_prompt, generate

CLIP_SOT, CLIP_EOT = 49406, 49407  # start and end of text in CLIP's vocabulary
HINT = "set output_tokens of a vision transformer and of a text tower"


class CoCa(CustomTextCLIP):
    """A dual encoder whose towers also return their tokens, and a decoder that writes captions from both.

    Args:
        embed_dim: D.
        multimodal_cfg: the decoder, as a configuration or a mapping of its fields.
        text_cfg: the text tower, in the same form, with `output_tokens`.
        vision_cfg: the visual tower, in the same form, with `output_tokens`.
        quick_gelu: use the activation of OpenAI's weights.
        init_logit_scale: logarithm of the temperature at the start of training.
        init_logit_bias: added to the logits; None for no bias.
        nonscalar_logit_scale: give temperature and bias the shape (1,), as some sharding wrappers need.
        cast_dtype: the dtype that linear weights will have; if it has 16 bits, norms compute in fp32.
        pad_id: the id that `generate` puts behind the end of a caption.

    Raises:
        ConfigError: if a tower does not return its tokens.
    """

    def __init__(
        self,
        embed_dim: int,
        multimodal_cfg: MultimodalCfg | Mapping[str, Any],
        text_cfg: CLIPTextCfg | Mapping[str, Any],
        vision_cfg: CLIPVisionCfg | Mapping[str, Any],
        quick_gelu: bool = False,
        init_logit_scale: float = INIT_LOGIT_SCALE,
        init_logit_bias: float | None = None,
        nonscalar_logit_scale: bool = False,
        cast_dtype: torch.dtype | None = None,
        pad_id: int = 0,
    ) -> None:
        DualEncoder.__init__(self)
        decoder = as_cfg(MultimodalCfg, multimodal_cfg)
        text, vision = as_cfg(CLIPTextCfg, text_cfg), as_cfg(CLIPVisionCfg, vision_cfg)
        self.output_dict = True
        self.text = build_text_tower(embed_dim, text, quick_gelu, cast_dtype)
        self.visual = build_visual_tower(embed_dim, vision, quick_gelu, cast_dtype)
        for name, tower in (("visual", self.visual), ("text", self.text)):
            if not getattr(tower, "output_tokens", False):
                raise ConfigError(
                    f"CoCa's decoder reads the tokens of the {name} tower, which does not return them: {HINT}"
                )
        # as many logits as the configuration says, even if a Hugging Face tower has more token ids
        self.text_decoder = build_decoder(decoder, text.vocab_size, quick_gelu, cast_dtype)
        self.context_length = decoder.context_length
        self.vocab_size = self.text_tower().vocab_size
        self._init_scale(init_logit_scale, init_logit_bias, nonscalar_logit_scale)
        self.pad_id = pad_id

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        """Encode images.

        Args:
            images: (B, 3, H, W), preprocessed.
            normalize: scale each feature vector to unit length.

        Returns:
            (B, D).
        """
        return self._encode_image(images, normalize)[0]

    def encode_text(self, text: Tensor, normalize: bool = True) -> Tensor:
        """Encode texts.

        Args:
            text: (B, L) token ids, L up to the context length.
            normalize: scale each feature vector to unit length.

        Returns:
            (B, D).
        """
        return self._encode_text(self.trim_unseen(text), normalize)[0]

    def _encode_image(self, images: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        """Encode images (B, 3, H, W) as features (B, D) and tokens (B, S, C)."""
        features, tokens = self.visual(images)
        return F.normalize(features, dim=-1) if normalize else features, tokens

    def _encode_text(self, text: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        """Encode texts (B, L) as features (B, D) and tokens (B, L, C)."""
        features, tokens = self.text(text)
        return F.normalize(features, dim=-1) if normalize else features, tokens

    def trim(self, text: Tensor) -> Tensor:
        """Check token ids (B, L) and cut off those that cannot change the features; their tokens are not returned."""
        return self.text_tower().trim(text)

    def forward(  # type: ignore[override]
        self,
        image: Tensor | None,
        text: Tensor | None = None,
        image_latent: Tensor | None = None,
        image_embs: Tensor | None = None,
        output_labels: bool = True,
    ) -> dict[str, Tensor]:
        """Encode images and captions, normalized, and predict each next token.

        Args:
            image: (B, 3, H, W); not used if both `image_latent` and `image_embs` are given.
            text: (B, L) token ids of the images' captions; None encodes the images alone.
            image_latent: (B, D) features of the images, if they are known.
            image_embs: (B, S, C) tokens of the images, if they are known.
            output_labels: also return the tokens to predict, and leave out the logits behind the last token.

        Returns:
            `image_features` (B, D), `text_features` (B, D), `logits` (B, L - 1, V), `labels` (B, L - 1) and
            `logit_scale`, exponentiated, with `logit_bias` if there is one; without labels `logits` are (B, L, V). For
            images alone `image_features` and `image_embs`.

        Raises:
            ShapeError: if neither images nor both of their encodings are given, or a size does not fit.
        """
        if image_latent is None or image_embs is None:
            if image is None:
                raise ShapeError("CoCa's forward needs images, or both their features and their tokens")
            image_latent, image_embs = self._encode_image(image, normalize=True)
        if text is None:
            return {"image_features": image_latent, "image_embs": image_embs}
        text_latent, tokens = self._encode_text(text, normalize=True)
        if output_labels:
            tokens = tokens[:, :-1]
        output = {
            "image_features": image_latent,
            "text_features": text_latent,
            "logits": self.text_decoder(image_embs, tokens),
            "logit_scale": self.logit_scale.exp(),
        }
        if output_labels:
            output["labels"] = text[:, 1:]
        if self.logit_bias is not None:
            output["logit_bias"] = self.logit_bias
        return output

    @torch.no_grad()
    def generate(
        self,
        image: Tensor,
        text: Tensor | None = None,
        seq_len: int = 30,
        max_seq_len: int = 77,
        temperature: float = 1.0,
        generation_type: Literal["beam_search", "top_p", "top_k"] = "beam_search",
        top_p: float = 0.1,
        top_k: int = 1,
        pad_token_id: int | None = None,
        eos_token_id: int | Sequence[int] | Tensor | None = None,
        sot_token_id: int | Tensor | None = None,
        num_beams: int = 6,
        num_beam_groups: int = 3,
        min_seq_len: int = 5,
        stopping_criteria: Sequence[Callable[..., Any]] | None = None,
        repetition_penalty: float = 1.0,
        fixed_output_length: bool = False,
    ) -> Tensor:
        """Write captions, token by token.

        The model is in evaluation mode during the call, and no gradients are recorded. See `oneclip.model.generation`.

        Args:
            image: (B, 3, H, W), preprocessed.
            text: (B, L) or (L,) token ids that the captions begin with; None begins with the start of text. For a
                beam search L is less than `seq_len`.
            seq_len: the longest caption, in tokens, start and end included.
            max_seq_len: how many of the last tokens are read to choose the next; never more than the context.
            temperature: divides the scores before "top_k" or "top_p" draws a token; higher is more varied.
            generation_type: "beam_search" keeps the best few partial captions; "top_k" draws from the k likeliest
                tokens (greedy, with k = 1), "top_p" from the fewest that together have probability p.
            top_p: p, from 0 to 1.
            top_k: k, from 1.
            pad_token_id: fills up captions that ended earlier; the model's `pad_id` when None.
            eos_token_id: the end of text, or several of them; CLIP's when None.
            sot_token_id: the start of text; CLIP's when None.
            num_beams: how many partial captions are kept in all groups.
            num_beam_groups: a divisor of `num_beams`; each group searches separately.
            min_seq_len: the end of text is not chosen before a caption has this many tokens.
            stopping_criteria: replaces the limit `seq_len`. Each is called with the ids (rows, tokens) and None after
                every token, and returns True to stop, or a tensor with one boolean for each row. The search ends when
                all rows stop.
            repetition_penalty: above 1 makes tokens that already occur less likely (Keskar et al. 2019, CTRL).
            fixed_output_length: fill up to `seq_len`.

        Returns:
            (B, tokens) int64 ids, the start of text and the prompt included; (tokens,) for one prompt (L,).

        Raises:
            ConfigError: on arguments that contradict each other.
            TokenRangeError: on ids outside the vocabulary.
        """
        cfg = GenerationCfg(
            generation_type=generation_type,
            seq_len=seq_len,
            max_seq_len=max_seq_len,
            min_seq_len=min_seq_len,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            num_beams=num_beams,
            num_beam_groups=num_beam_groups,
            repetition_penalty=repetition_penalty,
            fixed_output_length=fixed_output_length,
            pad_id=self.pad_id if pad_token_id is None else pad_token_id,
            eos_ids=_ids(CLIP_EOT if eos_token_id is None else eos_token_id),
            sot_id=_ids(CLIP_SOT if sot_token_id is None else sot_token_id)[0],
            stopping_criteria=tuple(stopping_criteria) if stopping_criteria is not None else None,
        )
        logit_count = self.text_decoder.text_projection.shape[1]
        prompt = expand_prompt(image, text, cfg, self.vocab_size, logit_count)
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            _, image_embs = self._encode_image(image, normalize=False)
            ids = generate(self.text, self.text_decoder, image_embs, prompt, cfg)
        finally:
            for module in training:
                module.training = True
        return ids[0] if text is not None and text.ndim == 1 and len(ids) == 1 else ids

    def _generate_beamsearch(
        self,
        image_inputs: Tensor,
        pad_token_id: int | None = None,
        eos_token_id: int | Sequence[int] | Tensor | None = None,
        sot_token_id: int | Tensor | None = None,
        num_beams: int = 6,
        num_beam_groups: int = 3,
        min_seq_len: int = 5,
        stopping_criteria: Sequence[Callable[..., Any]] | None = None,
        logit_processor: Any = None,
        logit_warper: Any = None,
    ) -> Tensor:
        """Call `generate` by beam search, under the published name and arguments.

        Raises:
            ConfigError: for a `logit_processor` or `logit_warper`, objects of transformers that are not supported.
        """
        if logit_processor is not None or logit_warper is not None:
            raise ConfigError(
                "a beam search takes no logit_processor or logit_warper; generate has repetition_penalty, min_seq_len"
            )
        return self.generate(
            image_inputs,
            pad_token_id=pad_token_id,
            eos_token_id=eos_token_id,
            sot_token_id=sot_token_id,
            num_beams=num_beams,
            num_beam_groups=num_beam_groups,
            min_seq_len=min_seq_len,
            stopping_criteria=stopping_criteria,
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block of towers and decoder in the backward pass instead of storing its activations."""
        super().set_grad_checkpointing(enable)
        self.text_decoder.set_grad_checkpointing(enable)


def _ids(ids: int | Sequence[int] | Tensor) -> tuple[int, ...]:
    """Read one id, several, or a tensor of them."""
    return tuple(int(i) for i in torch.as_tensor(ids).flatten())
