"""Maps: what is drawn, boxed and written of given values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError, TextError
from oneclip.explain import Maps
from oneclip.explain.placement import Placement
from oneclip.explain.windows import CELLS, average_windows, cut_windows


def maps_of(grid: np.ndarray, *, size: tuple[int, int] = (80, 80), mode: str = "shortest") -> Maps:
    """Make maps of a gray image of a size (height, width) whose input has 40 pixels per side."""
    texts = tuple("abcdef"[: len(grid)])
    return Maps(
        texts=texts,
        scores=np.linspace(0.1, 0.3, len(grid), dtype=np.float32),
        grid=grid.astype(np.float32),
        placement=Placement.of_preprocess(PreprocessCfg(size=40, resize_mode=mode), *size),
        image=Image.new("RGB", size[::-1], (128, 128, 128)),
        method="dense",
        contrast="the other labels",
    )


def spot(row: int, column: int, value: float = 1.0, cells: int = 4) -> np.ndarray:
    """Make values (cells, cells) of -1 with one cell of another value."""
    grid = np.full((cells, cells), -1.0)
    grid[row, column] = value
    return grid


def test_values_are_those_of_the_cells_at_their_centres() -> None:
    values = maps_of(np.stack([spot(1, 2)])).values[0]
    assert values.shape == (80, 80)
    assert values[29:31, 49:51].min() > 0.9
    assert values[:20].max() < 0.5


def test_a_peak_is_the_centre_of_the_highest_cell() -> None:
    maps = maps_of(np.stack([spot(1, 2), spot(3, 0)]))
    assert maps.peak() == (50, 30, 1.0)
    assert maps.peak("b") == (10, 70, 1.0)


def test_a_peak_of_a_cropped_image_lies_in_what_the_model_sees() -> None:
    maps = maps_of(np.stack([spot(0, 0)]), size=(80, 200))
    assert maps.peak()[:2] == (70, 10)
    assert np.isnan(maps.values[0, :, :59]).all()


def test_a_peak_of_a_padded_image_lies_in_the_image() -> None:
    maps = maps_of(np.stack([spot(0, 0, 5.0) + spot(1, 1)]), size=(40, 80), mode="longest")
    assert maps.peak()[:2] == (30, 10)


def test_a_box_holds_adjacent_cells_above_the_quantile() -> None:
    grid = np.full((4, 4), -1.0)
    grid[1, 1:3] = 0.5
    grid[3, 3] = 0.8
    (boxes,) = maps_of(grid[None]).boxes(0.5)
    assert boxes == [(60, 60, 80, 80, pytest.approx(0.8)), (20, 20, 60, 40, pytest.approx(0.5))]


def test_a_text_that_fits_nowhere_has_no_box() -> None:
    maps = maps_of(np.stack([spot(1, 2), spot(0, 0, -0.5)]))
    assert [len(boxes) for boxes in maps.boxes()] == [1, 0]


def test_all_maps_share_one_scale_so_that_an_absent_thing_stays_pale() -> None:
    maps = maps_of(np.stack([spot(1, 2), spot(1, 2, 0.05)]))
    original = np.asarray(maps.image, np.int64)
    strong, weak = (np.abs(np.asarray(maps.overlay(i), np.int64) - original).max() for i in (0, 1))
    assert weak < strong / 10


def test_an_overlay_changes_nothing_where_values_are_below_zero() -> None:
    overlay = np.asarray(maps_of(np.stack([spot(3, 3)])).overlay())
    assert (overlay[:40, :40] == 128).all()
    assert (overlay[70, 70] != 128).any()


def test_what_is_cropped_is_dark_and_gray() -> None:
    overlay = np.asarray(maps_of(np.stack([spot(1, 2)]), size=(80, 200)).overlay())
    assert (overlay[:, :59] == round(128 * 0.4)).all()


def test_maps_without_a_value_above_zero_are_drawn() -> None:
    maps = maps_of(np.full((1, 4, 4), -1.0))
    assert maps.ceiling == 0
    assert (np.asarray(maps.overlay()) == 128).all()


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp"])
def test_maps_are_written_as_one_image(tmp_path: Path, ending: str) -> None:
    maps = maps_of(np.stack([spot(1, 2), spot(0, 0), spot(3, 3)]))
    maps.save(tmp_path / f"map{ending}")
    with Image.open(tmp_path / f"map{ending}") as sheet:
        assert sheet.width >= 3 * 80


def test_many_maps_continue_in_the_next_row(tmp_path: Path) -> None:
    maps = maps_of(np.stack([spot(1, 2)] * 6), size=(400, 400))
    maps.save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as sheet:
        assert sheet.width < 1700
        assert sheet.height > 800


def test_a_text_without_a_map_is_refused() -> None:
    maps = maps_of(np.stack([spot(1, 2)]))
    for text in ("dog", 1):
        with pytest.raises(TextError, match=r"no map of .*; the maps are of 'a'"):
            maps.overlay(text)


def test_a_quantile_outside_of_0_to_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="q is 90; expected a quantile from 0 to 1"):
        maps_of(np.stack([spot(1, 2)])).boxes(90)


def test_windows_cover_the_image_and_their_mean_is_theirs() -> None:
    placement = Placement.of_preprocess(PreprocessCfg(size=40), 80, 80)
    windows, covered = cut_windows(Image.new("RGB", (80, 80)), placement)
    assert {window.size for window in windows} == {(40, 40), (27, 27), (26, 26), (27, 26), (26, 27)}
    assert len(windows) == len(covered) == 34
    grid = average_windows(np.ones((1, len(windows)), np.float32), covered)
    assert grid.shape == (1, CELLS, CELLS)
    np.testing.assert_allclose(grid, 1, atol=1e-6)
