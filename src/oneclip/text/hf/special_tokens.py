"""What stands around a caption: the post-processor of a tokenizer to the ids before and after, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import processors

from oneclip.errors import ConfigError


class Template(NamedTuple):
    """Tokens and their ids before and after a caption."""

    before: tuple[tuple[str, int], ...] = ()
    after: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, vocabulary: Mapping[str, int], before: Sequence[str], after: Sequence[str]) -> Template:
        """The template of these tokens.

        Raises:
            ConfigError: if one is not in the vocabulary.
        """

        def with_id(token: str) -> tuple[str, int]:
            found = vocabulary.get(token)
            if found is None:
                raise ConfigError(f"{token!r} should stand around a caption, but is not in the vocabulary")
            return token, found

        return cls(tuple(map(with_id, before)), tuple(map(with_id, after)))

    def ids(self) -> tuple[list[int], list[int]]:
        """The ids before and after a caption."""
        return [i for _, i in self.before], [i for _, i in self.after]

    def processor(self) -> processors.PostProcessor:
        """The same as `tokenizers` has it."""
        single = [*(token for token, _ in self.before), "$A", *(token for token, _ in self.after)]
        return processors.TemplateProcessing(single=single, special_tokens=list({*self.before, *self.after}))


def read_template(processor: processors.PostProcessor | None) -> Template | None:
    """What a post-processor puts around a single text; None if there is none.

    Raises:
        ConfigError: if that is more than ids before and after the text, or tokens without ids.
    """
    try:
        return None if processor is None else _read(json.loads(processor.__getstate__()))
    except ConfigError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"what stands around a caption cannot be used: {error!r}") from error


def _read(state: Mapping[str, Any]) -> Template:
    match state:
        case {"type": "TemplateProcessing", "single": single, "special_tokens": special}:
            return _of_single(single, special)
        case {"type": "RobertaProcessing" | "BertProcessing", "cls": cls, "sep": sep}:
            return Template((tuple(cls),), (tuple(sep),))
        case {"type": "ByteLevel"}:  # moves offsets only
            return Template()
        case {"type": "Sequence", "processors": steps}:
            templates = [_read(step) for step in steps]
            return Template(
                tuple(token for step in reversed(templates) for token in step.before),
                tuple(token for step in templates for token in step.after),
            )
    raise ConfigError(f"what a {state.get('type')!r} post-processor puts around a text is unknown")


def _of_single(single: Sequence[Mapping[str, Any]], special: Mapping[str, Any]) -> Template:
    sides: list[list[tuple[str, int]]] = [[]]
    for part in single:
        if "Sequence" in part:
            sides.append([])
        else:
            token = special[part["SpecialToken"]["id"]]
            sides[-1] += zip(token["tokens"], token["ids"], strict=True)
    if len(sides) != 2:
        raise ConfigError("a template that does not hold the caption exactly once cannot be used")
    return Template(tuple(sides[0]), tuple(sides[1]))
