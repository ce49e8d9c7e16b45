"""Grouping of texts by shared prefix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneclip.text.batching.shared_prefixes import MIN_GROUP_SIZE, PrefixGroup, group_by_prefix

CAPTION = st.lists(st.integers(1, 3), min_size=1, max_size=6)


def rows_of(captions: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros((len(captions), 8), dtype=np.int64)
    for row, caption in enumerate(captions):
        ids[row, : len(caption)] = caption
    return ids, np.array([len(caption) for caption in captions])


def groups_of(captions: list[list[int]]) -> list[tuple[set[int], int]]:
    return [(set(rows.tolist()), shared) for rows, shared in group_by_prefix(*rows_of(captions))]


@given(st.lists(CAPTION, min_size=1, max_size=40))
def test_every_row_is_in_one_group_and_has_its_prefix_and_more(
    captions: list[list[int]],
) -> None:
    ids, lengths = rows_of(captions)
    groups: list[PrefixGroup] = group_by_prefix(ids, lengths)
    assert sorted(row for group in groups for row in group.rows.tolist()) == list(range(len(captions)))
    for rows, shared in groups:
        assert (ids[rows, :shared] == ids[rows[0], :shared]).all()
        assert (lengths[rows] > shared).all()


def test_prompts_of_a_classifier_are_grouped_by_their_template() -> None:
    templates = [[1, 10, 11, 12, 13], [1, 10, 11, 14], [1, 20, 21, 22]]
    captions = [[*template, 30 + name, 99] for name in range(MIN_GROUP_SIZE) for template in templates]
    expected = [
        ({row for row in range(len(captions)) if row % 3 == kind}, len(t)) for kind, t in enumerate(templates)
    ]
    assert sorted(groups_of(captions), key=str) == sorted(expected, key=str)


def test_texts_that_share_only_the_start_of_text_form_one_group() -> None:
    assert groups_of([[1, 5, 9], [1, 6, 9], [1, 7, 8, 9]]) == [({0, 1, 2}, 1)]


@pytest.mark.parametrize("captions", [[[5, 9], [6, 9]], [[1], [1, 2]]])
def test_nothing_is_shared_without_a_common_start_or_with_nothing_after_it(captions: list[list[int]]) -> None:
    assert groups_of(captions) == [({0, 1}, 0)]


def test_too_few_texts_get_no_group_of_their_own() -> None:
    assert groups_of([[1, 2, 3, 4, 50 + n] for n in range(MIN_GROUP_SIZE - 1)]) == [
        (set(range(MIN_GROUP_SIZE - 1)), 1)
    ]


def test_equal_texts_share_everything_but_the_last_token() -> None:
    assert groups_of([[1, 2, 3, 4, 5]] * MIN_GROUP_SIZE) == [(set(range(MIN_GROUP_SIZE)), 4)]
