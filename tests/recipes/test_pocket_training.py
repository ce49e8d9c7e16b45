"""The training of the pocket recipe: descriptions, losses, phases, and two towers in two threads."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("pyarrow")

from recipes.pocket.captions import Describer, group_key
from recipes.pocket.evaluation_sets import keyword_query
from recipes.pocket.objective import DistilledLoss, descriptions_loss
from recipes.pocket.phases import PHASES
from recipes.pocket.side_by_side import side_by_side
from recipes.pocket.split import concept_of
from recipes.pocket.subgroups import EVALUATED, PHRASES


def draws(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(7)


def test_a_description_consists_of_its_words() -> None:
    keywords = ["animal", "nature", "pet", "whiskers", "furry"]
    for seed in range(50):
        found = Describer(subgroup=0).describe(keywords, "", draws(seed))
        assert found is not None
        assert 1 <= len(found.words) <= 4
        assert found.words <= set(keywords)
        assert sorted(found.text.replace(",", "").split()) == sorted(found.words)


def test_a_description_by_subgroup_needs_the_subgroup() -> None:
    found = Describer(subgroup=1.0).describe(["wings"], "animal-bird", draws(1))
    assert found is not None
    assert found.words == {group_key("animal-bird")}
    assert any(phrase in found.text for phrase in PHRASES["animal-bird"])


def test_an_image_without_keywords_and_subgroup_has_no_description() -> None:
    assert Describer().describe([], "other-symbol", draws(0)) is None


def test_no_phrase_of_a_subgroup_mentions_an_unseen_word() -> None:
    assert not [phrase for phrases in PHRASES.values() for phrase in phrases if concept_of(phrase, (), ())]


def test_no_phrase_is_used_for_two_subgroups() -> None:
    phrases = [phrase for own in PHRASES.values() for phrase in own]
    assert len(phrases) == len(set(phrases))
    assert len(EVALUATED) == 26
    assert set(EVALUATED) <= set(PHRASES)


def test_a_keyword_query_has_three_keywords_and_no_word_of_the_name() -> None:
    keywords = ["cat", "big cat", "pet", "whiskers", "nature", "furry"]
    query = keyword_query("cat face", keywords)
    assert len(query.split(", ")) == 3
    assert set(query.split(", ")) <= {"pet", "whiskers", "nature", "furry"}
    assert query == keyword_query("cat face", keywords[::-1])
    assert keyword_query("cat face", keywords[:4]) == ""


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_without_chance_fits_descriptions_are_contrasted_like_names() -> None:
    image, text, scale = unit(6, 0), unit(6, 1), torch.tensor(10.0)
    plain = DistilledLoss(8).clip(image, text, scale)
    found = descriptions_loss(image, text, scale, torch.arange(6), torch.zeros(6, 6, dtype=torch.bool))
    torch.testing.assert_close(found, plain)


def test_an_image_that_a_description_also_fits_is_not_a_negative() -> None:
    image, text, scale = unit(4, 0), unit(2, 1), torch.tensor(10.0)
    owners, also_fits = torch.tensor([0, 1]), torch.zeros(2, 4, dtype=torch.bool)
    also_fits[0, 3] = True
    before = descriptions_loss(image, text, scale, owners, also_fits)
    image[3] = text[0]  # the best possible match
    text_1_moves = descriptions_loss(image, text, scale, owners, also_fits)
    image[3] = unit(1, 5)[0]
    assert not torch.equal(before, text_1_moves)  # it stays a negative of the other caption
    also_fits[1, 3] = True
    without = [
        descriptions_loss(x, text, scale, owners, also_fits)
        for x in (image, image.index_fill(0, torch.tensor([3]), 0.3))
    ]
    torch.testing.assert_close(*without)


def test_the_fitted_projection_is_the_least_squares_one() -> None:
    loss_fn, features = DistilledLoss(8), unit(600, 0)
    vectors = features @ torch.randn(8, 384, generator=torch.Generator().manual_seed(2)) + 0.5
    loss_fn.fit(features, vectors)
    assert loss_fn.distil(features, vectors).item() < 1e-5


def test_two_threads_give_the_gradients_of_one() -> None:
    torch.manual_seed(0)
    first, second, x = nn.Linear(3, 4), nn.Linear(3, 4), torch.randn(5, 3)
    parameters = (*first.parameters(), *second.parameters())
    expected = torch.autograd.grad((first(x) * second(x)).sum(), parameters)
    with ThreadPoolExecutor(2) as pool:
        one, two = side_by_side((lambda: first(x), lambda: second(x)), pool)
        (one * two).sum().backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_image_sizes_do_not_decrease_over_the_phases() -> None:
    assert all(before.image_size <= after.image_size for before, after in pairwise(PHASES))
    assert len({phase.name for phase in PHASES}) == len(PHASES)
    assert math.isclose(sum(PHASES[-1].describer.counts), 1.0)
