"""Scores of Winoground's and SugarCrepe's instances."""

from __future__ import annotations

import pytest
from by_vectors import dataset_of, split_of, text_encoder, unit

from oneclip.errors import DataError
from oneclip.evaluate.caption_selection import score_caption_selection
from oneclip.evaluate.encoded import Score

ANGLES = unit([[1, 0], [1, 1], [0, 1]])
TEXTS = {"right": ANGLES[0], "between": ANGLES[1], "up": ANGLES[2], "also up": ANGLES[2]}


def score(*instances: tuple[list[int], tuple[str, str]], compat: bool = False) -> Score:
    """Score instances of images, as rows of ANGLES, and captions."""
    rows = [(row, captions, number) for number, (images, captions) in enumerate(instances) for row in images]
    split = split_of(
        ANGLES[[row for row, _, _ in rows]],
        texts=[captions for _, captions, _ in rows],
        instance=[number for _, _, number in rows],
    )
    return score_caption_selection(
        dataset_of(split, "caption_selection"), split, text_encoder(TEXTS), compat=compat
    )


def test_a_group_is_correct_if_both_images_and_both_captions_are() -> None:
    result = score(([0, 2], ("right", "up")), ([2, 0], ("right", "up")))
    assert result.metrics == {"image_acc": 0.5, "text_acc": 0.5, "acc": 0.5}
    assert result.items["acc"].tolist() == [1.0, 0.0]


def test_images_and_captions_are_scored_separately() -> None:
    # both captions are nearest to their image; the second image is nearest to the first caption too
    metrics = score(([0, 1], ("right", "up"))).metrics
    assert metrics == {"image_acc": 1.0, "text_acc": 0.0, "acc": 0.0}


def test_one_image_has_two_captions_of_which_the_first_is_right() -> None:
    result = score(([0], ("right", "up")), ([0], ("up", "right")), ([0], ("between", "up")))
    assert result.metrics == pytest.approx({"image_acc": 1.0, "text_acc": 2 / 3, "acc": 2 / 3})


@pytest.mark.parametrize(("compat", "accuracy"), [(False, 0.0), (True, 1.0)])
def test_a_tie_counts_against_the_model(compat: bool, accuracy: float) -> None:
    assert score(([2], ("up", "also up")), compat=compat).metrics["acc"] == accuracy


def test_an_instance_whose_image_could_not_be_read_is_left_out() -> None:
    result = score(([0, 2], ("right", "up")), ([2], ("right", "up")))
    assert result.metrics["acc"] == 1.0
    assert (result.details["instances"], result.details["incomplete_instances"]) == (1, 1)


def test_images_without_captions_are_an_error() -> None:
    split = split_of(ANGLES, instance=[0, 1, 2])
    with pytest.raises(DataError, match="have no captions"):
        score_caption_selection(dataset_of(split, "caption_selection"), split, text_encoder(TEXTS))
