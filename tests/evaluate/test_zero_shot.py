"""Zero-shot classifiers: averaging over prompts, and invalid input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from oneclip.errors import TextError
from oneclip.evaluate import (
    SIMPLE_TEMPLATES,
    TEMPLATES,
    class_names,
    fill_templates,
    read_templates,
    zero_shot_classifier,
)
from oneclip.text.labels import label_prompts


def encode(texts: list[str]) -> Tensor:
    """Return (B, 8) features that depend on the text."""
    seeds = [torch.Generator().manual_seed(sum(map(ord, text))) for text in texts]
    return torch.stack([torch.randn(8, generator=seed) for seed in seeds])


def test_imagenet_has_a_thousand_classes_and_eighty_prompts() -> None:
    assert (len(class_names()), len(TEMPLATES), len(SIMPLE_TEMPLATES)) == (1000, 80, 7)
    assert len(set(TEMPLATES)) == 80
    assert set(SIMPLE_TEMPLATES) < set(TEMPLATES)


def test_every_prompt_names_the_class_once() -> None:
    assert all(prompt.count("{}") == 1 and prompt.format("x").count("{") == 0 for prompt in TEMPLATES)


def test_columns_are_unit_vectors_and_batches_do_not_matter() -> None:
    names = ["cat", "dog", "cow"]
    weights = zero_shot_classifier(encode, names, TEMPLATES)
    assert weights.shape == (8, 3)
    torch.testing.assert_close(weights.norm(dim=0), torch.ones(3))
    for size in (1, 2, None):
        torch.testing.assert_close(
            zero_shot_classifier(encode, names, TEMPLATES, names_per_batch=size), weights
        )


def test_one_prompt_gives_its_normalized_feature() -> None:
    weights = zero_shot_classifier(encode, ["cat"], ["a {}."])
    torch.testing.assert_close(weights[:, 0], torch.nn.functional.normalize(encode(["a cat."])[0], dim=0))


def test_a_template_may_be_a_function_or_a_string() -> None:
    assert fill_templates("cat", [str.upper, "my {}", "{} {}".format("a", "{}")]) == [
        "CAT",
        "my cat",
        "a cat",
    ]


@pytest.mark.parametrize("template", ["a {} thing", "a {0} thing"])
def test_one_rule_says_where_a_name_goes(template: str) -> None:
    assert fill_templates("{x}", [template]) == ["a {x} thing"]
    assert label_prompts(["{x}"], template) == [["a {x} thing"]]
    assert read_templates(template) == [template]


def test_progress_sees_every_batch() -> None:
    seen: list[int] = []

    def progress(batches: list[list[list[str]]]) -> list[list[list[str]]]:
        seen.extend(len(batch) for batch in batches)
        return batches

    zero_shot_classifier(encode, list("abcde"), ["{}"], names_per_batch=2, progress=progress)
    assert seen == [2, 2, 1]


@pytest.mark.parametrize(
    ("names", "templates"),
    [([], ["{}"]), (["cat"], []), ("cat", ["{}"]), (["cat"], "a {}"), (["cat"], ["a photo"])],
    ids=["no names", "no templates", "a string of names", "a string of templates", "no place for the name"],
)
def test_invalid_names_and_templates_are_errors(names: list[str], templates: list[str]) -> None:
    with pytest.raises(TextError):
        zero_shot_classifier(encode, names, templates)


def test_a_batch_size_of_zero_is_an_error() -> None:
    with pytest.raises(TextError, match="names_per_batch"):
        zero_shot_classifier(encode, ["cat"], ["{}"], names_per_batch=0)


def test_no_gradient_is_kept() -> None:
    scale = torch.ones((), requires_grad=True)
    weights = zero_shot_classifier(lambda texts: encode(texts) * scale, ["cat"], ["{}"])
    assert not weights.requires_grad
