"""Special tokens before and after a text: read them from a post-processor, and make a post-processor of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import processors

from oneclip.errors import ConfigError


class SpecialTokenTemplate(NamedTuple):
    """Tokens and their ids before and after a text."""

    before: tuple[tuple[str, int], ...] = ()
    after: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(
        cls, vocabulary: Mapping[str, int], before: Sequence[str], after: Sequence[str]
    ) -> SpecialTokenTemplate:
        """Look up the ids of these tokens.

        Raises:
            ConfigError: if one is not in the vocabulary.
        """

        def with_id(token: str) -> tuple[str, int]:
            found = vocabulary.get(token)
            if found is None:
                raise ConfigError(f"the special token {token!r} is not in the vocabulary")
            return token, found

        return cls(tuple(map(with_id, before)), tuple(map(with_id, after)))

    def ids(self) -> tuple[list[int], list[int]]:
        """Return the ids before and after a text."""
        return [i for _, i in self.before], [i for _, i in self.after]

    def processor(self) -> processors.PostProcessor:
        """Make the post-processor of `tokenizers`."""
        single = [*(token for token, _ in self.before), "$A", *(token for token, _ in self.after)]
        return processors.TemplateProcessing(single=single, special_tokens=list({*self.before, *self.after}))


def read_special_token_template(processor: processors.PostProcessor | None) -> SpecialTokenTemplate | None:
    """Read the special tokens that a post-processor adds to a single text; None if there is no post-processor.

    Raises:
        ConfigError: if it does more than add ids before and after, or a token has no id.
    """
    try:
        return None if processor is None else _parse(json.loads(processor.__getstate__()))
    except ConfigError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"the post-processor of the tokenizer cannot be read: {error!r}") from error


def _parse(state: Mapping[str, Any]) -> SpecialTokenTemplate:
    match state:
        case {"type": "TemplateProcessing", "single": single, "special_tokens": special}:
            return _parse_single(single, special)
        case {"type": "RobertaProcessing" | "BertProcessing", "cls": cls, "sep": sep}:
            return SpecialTokenTemplate((tuple(cls),), (tuple(sep),))
        case {"type": "ByteLevel"}:  # changes only offsets
            return SpecialTokenTemplate()
        case {"type": "Sequence", "processors": steps}:
            templates = [_parse(step) for step in steps]
            return SpecialTokenTemplate(
                tuple(token for step in reversed(templates) for token in step.before),
                tuple(token for step in templates for token in step.after),
            )
    raise ConfigError(f"unknown post-processor {state.get('type')!r}")


def _parse_single(single: Sequence[Mapping[str, Any]], special: Mapping[str, Any]) -> SpecialTokenTemplate:
    sides: list[list[tuple[str, int]]] = [[]]
    for part in single:
        if "Sequence" in part:
            sides.append([])
        else:
            token = special[part["SpecialToken"]["id"]]
            sides[-1] += zip(token["tokens"], token["ids"], strict=True)
    if len(sides) != 2:
        raise ConfigError("the template of the tokenizer does not contain the text exactly once")
    return SpecialTokenTemplate(tuple(sides[0]), tuple(sides[1]))
