"""Batch loader: batches depend on seed and step only, not on the number of ranks, threads or processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from tars import half_jpeg

from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError, DataError
from oneclip.hub.pairs import CaptionPairs
from oneclip.image import Augment
from oneclip.train.data import (
    BatchLoader,
    MixtureDataset,
    PairDataset,
    Sample,
    SyntheticDataset,
    TableDataset,
)


def loader(pairs: CaptionPairs, folder: Path, batch_size: int = 4, **options: object) -> BatchLoader:
    table = TableDataset(pairs, folder, skip_missing=bool(options.pop("skip_missing", False)))
    return BatchLoader(table, batch_size, Augment(PreprocessCfg(size=8)), **options)  # type: ignore[arg-type]


class Numbered(PairDataset):
    """Dataset whose captions are the sample numbers; some samples are broken."""

    def __init__(self, count: int, broken: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def read(self, number: int) -> Sample:
        if number in self.broken:
            raise DataError("no such image")
        return Sample(Image.new("L", (1, 1)), [str(number)])

    @property
    def identity(self) -> Mapping[str, str | int | float]:
        return {"data": self.count}


def seed_only(image: Image.Image, seed: int) -> torch.Tensor:
    return torch.tensor([seed])


def numbered(
    count: int, batch_size: int, broken: frozenset[int] = frozenset(), **options: object
) -> BatchLoader:
    return BatchLoader(Numbered(count, broken), batch_size, seed_only, threads=1, **options)  # type: ignore[arg-type]


def stream(source: BatchLoader, steps: int) -> list[int]:
    return [int(caption) for step in range(steps) for caption in source.batch(step).texts]


def test_a_batch_is_the_same_in_any_order_of_requests(pairs: CaptionPairs, tmp_path: Path) -> None:
    first, second = loader(pairs, tmp_path), loader(pairs, tmp_path, threads=1)
    late = second.batch(3)
    for step in (0, 1, 2):
        first.batch(step)
    early = first.batch(3)
    assert early.texts == late.texts
    assert torch.equal(early.images, late.images)
    assert early.images.shape == (4, 3, 8, 8)


def test_epochs_that_do_not_fill_whole_batches_lose_no_sample() -> None:
    source = numbered(10, 4)
    found = stream(source, 10)
    assert all(sorted(found[start : start + 10]) == list(range(10)) for start in range(0, 40, 10))
    assert found[:10] != found[10:20]


@pytest.mark.parametrize(("count", "batch_size", "batches"), [(10, 4, 3), (9, 4, 2), (4, 4, 1), (5, 4, 1)])
def test_the_batches_of_an_epoch_are_the_nearest_whole_number(
    count: int, batch_size: int, batches: int
) -> None:
    assert numbered(count, batch_size).batches_per_epoch == batches


def test_seeds_change_order_and_augmentation(pairs: CaptionPairs, tmp_path: Path) -> None:
    one, other = (loader(pairs, tmp_path, batch_size=10, seed=seed).batch(0) for seed in (0, 1))
    assert one.texts != other.texts
    assert not torch.equal(one.images[one.texts.index("3")], other.images[other.texts.index("3")])


@pytest.mark.parametrize("broken", [frozenset(), frozenset({3, 50, 51, 52})])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batches_of_one_process(world_size: int, broken: frozenset[int]) -> None:
    alone = numbered(101, 12, broken)
    ranks = [numbered(101, 12, broken, rank=r, world_size=world_size) for r in range(world_size)]
    for step in range(30):
        whole, shares = alone.batch(step), [rank.batch(step) for rank in ranks]
        assert [text for share in shares for text in share.texts] == list(whole.texts)
        assert torch.equal(torch.cat([share.images for share in shares]), whole.images)
        assert all(len(share.images) == 12 // world_size for share in shares)


def test_a_broken_sample_is_reported_and_replaced(pairs: CaptionPairs, tmp_path: Path) -> None:
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    source = loader(pairs, tmp_path, batch_size=5)
    batches = [source.batch(step) for step in (0, 1)]
    assert all(len(batch.images) == len(set(batch.texts)) == 5 for batch in batches)
    assert all("3" not in batch.texts for batch in batches)
    assert list(source.skipped) == ["3.png"]
    assert "3.png" in source.skipped["3.png"]
    assert source.broken == 1


def test_any_error_of_a_sample_makes_only_this_sample_broken() -> None:
    class Odd(Numbered):
        def read(self, number: int) -> Sample:
            if number == 3:
                raise ZeroDivisionError("no place to go")
            return super().read(number)

    source = BatchLoader(Odd(10), 5, seed_only, threads=1, max_bad_fraction=1.0)
    assert "3" not in [text for step in (0, 1) for text in source.batch(step).texts]
    assert source.skipped == {"sample 3": "sample 3: ZeroDivisionError: no place to go"}


def test_a_broken_stand_in_is_replaced_as_well() -> None:
    source = numbered(1000, 10, frozenset(range(0, 1000, 2)), max_bad_fraction=1.0)
    found = stream(source, 100)
    assert all(number % 2 for number in found)
    assert all(len(set(found[start : start + 10])) == 10 for start in range(0, 1000, 10))


def test_a_sample_without_a_caption_is_broken() -> None:
    class Silent(Numbered):
        def read(self, number: int) -> Sample:
            return super().read(number)._replace(captions=["7"] if number == 7 else [" "])

    source = BatchLoader(Silent(8), 1, seed_only, threads=1, max_bad_fraction=1.0)
    assert stream(source, 8) == [7] * 8
    assert source.skipped["sample 3"] == "sample 3: the sample has no caption"


def test_a_batch_of_only_broken_images_raises(pairs: CaptionPairs, tmp_path: Path) -> None:
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"not an image")
    with pytest.raises(
        DataError, match=r"png cannot be used, and neither can the 9 samples tried in its place: .*png"
    ):
        loader(pairs, tmp_path).batch(0)


def test_more_broken_samples_than_allowed_raise_with_examples() -> None:
    source = numbered(2000, 10, frozenset(range(0, 2000, 50)))
    with pytest.raises(DataError, match=r"6 of \d+ samples are broken, more than 1.00% .*: no such image"):
        stream(source, 100)


def test_as_many_broken_samples_as_allowed_do_not_raise() -> None:
    source = numbered(2000, 10, frozenset(range(0, 2000, 50)), max_bad_fraction=0.05)
    stream(source, 400)
    assert source.broken == 40


def test_one_broken_sample_raises_if_none_is_allowed() -> None:
    with pytest.raises(DataError, match=r"1 of \d+ samples .* more than 0.00%"):
        stream(numbered(10, 5, frozenset({4}), max_bad_fraction=0.0), 2)


def test_the_caption_of_an_image_is_drawn_by_seed_and_epoch() -> None:
    class Twofold(Numbered):
        def read(self, number: int) -> Sample:
            return super().read(number)._replace(captions=[f"{number}", f"{number + 100}"])

    source = BatchLoader(Twofold(20), 10, seed_only, threads=1)
    epochs = [sorted(stream(source, 8)[start : start + 20]) for start in range(0, 80, 20)]
    assert all(sorted(text % 100 for text in epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert stream(BatchLoader(Twofold(20), 10, seed_only, threads=3), 8) == stream(source, 8)


def test_missing_files_raise_with_their_folder_unless_they_are_skipped(
    pairs: CaptionPairs, tmp_path: Path
) -> None:
    (tmp_path / "7.png").unlink()
    with pytest.raises(DataError, match=r"1 of 10 images of pairs\.csv are not in .*: 7\.png"):
        loader(pairs, tmp_path)
    source = loader(pairs, tmp_path, skip_missing=True)
    assert len(source.dataset) == 9
    assert list(source.skipped) == ["7.png"]
    with pytest.raises(DataError, match="10 of 10 images"):
        loader(pairs, tmp_path / "elsewhere", skip_missing=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 11}, "needs 11 samples of the data, which has 10"),
        ({"batch_size": 0}, "a batch of 0"),
        ({"batch_size": 6, "world_size": 4}, "cannot be split between 4 ranks"),
        ({"batch_size": 6, "world_size": 2, "rank": 2}, "this is rank 2"),
        ({"threads": 0}, "threads=0"),
        ({"max_bad_fraction": 2.0}, "max_bad_fraction=2"),
        ({"seed": -1}, "the data seed is -1"),
    ],
)
def test_settings_out_of_range_raise(
    pairs: CaptionPairs, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        loader(pairs, tmp_path, **options)  # type: ignore[arg-type]


def test_a_weighted_mixture_has_its_weights_in_every_batch() -> None:
    mixture = MixtureDataset([Numbered(100), SyntheticDataset(1000, (4, 4))], [3, 1])
    source = BatchLoader(mixture, 8, seed_only, threads=1)
    for step in range(50):
        assert sum(text.isdecimal() for text in source.batch(step).texts) == 6


def test_sources_without_weights_are_concatenated() -> None:
    source = BatchLoader(MixtureDataset([Numbered(7), Numbered(5)]), 4, seed_only, threads=1)
    assert sorted(stream(source, 3)) == sorted([*range(7), *range(5)])


def test_the_identity_changes_with_data_seed_batch_size_and_weights() -> None:
    sources = [
        numbered(100, 10),
        numbered(101, 10),
        numbered(100, 20),
        numbered(100, 10, seed=1),
        BatchLoader(MixtureDataset([Numbered(50), Numbered(50)]), 10, seed_only),
        BatchLoader(MixtureDataset([Numbered(50), Numbered(50)], [1, 2]), 10, seed_only),
    ]
    assert len({tuple(sorted(source.identity.items())) for source in sources}) == 6


def test_a_truncated_image_is_used_if_accepted(pairs: CaptionPairs, tmp_path: Path) -> None:
    (tmp_path / "3.png").write_bytes(half_jpeg(3))
    refused, accepted = loader(pairs, tmp_path, 10), loader(pairs, tmp_path, 10, truncated="accept")
    assert "3" not in refused.batch(0).texts
    assert list(refused.skipped) == ["3.png"]
    assert "3" in accepted.batch(0).texts
    assert accepted.skipped == {}
