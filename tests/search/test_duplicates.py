"""Duplicates: which files form a group, in which order, and what is never grouped."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

import oneclip
from oneclip.errors import ConfigError
from oneclip.search import Index, near_groups
from oneclip.search.duplicates import DuplicateGroup, find_duplicates, group_duplicates, looks_alike
from oneclip.search.near_groups import find_leaders

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "images"


def drawing(name: str) -> Image.Image:
    """Return an example image without transparency."""
    image = Image.open(EXAMPLES / f"{name}.png").convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def make_files(folder: Path) -> None:
    """Write one image in many forms, and others that look like it or like nothing else."""
    cat, (width, height) = drawing("cat"), drawing("cat").size
    (folder / "sub").mkdir(parents=True)
    cat.save(folder / "cat.png")
    shutil.copy2(folder / "cat.png", folder / "sub" / "cat copy.png")
    cat.save(folder / "cat95.jpg", quality=95)
    cat.save(folder / "cat60.jpg", quality=60)
    cat.resize((width // 2, height // 2), Image.Resampling.LANCZOS).save(folder / "cat half.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to the right to show it
    cat.transpose(Image.Transpose.ROTATE_90).save(folder / "cat turned.jpg", quality=95, exif=exif)
    border = round(0.02 * width)
    cat.crop((border, border, width - border, height - border)).save(folder / "cat cropped.png")
    ImageOps.mirror(cat).save(folder / "cat mirrored.png")
    for name in ("car", "house"):
        drawing(name).save(folder / f"{name}.png")
    for i, left in enumerate((20, 130)):  # two photographs of one scene
        scene = Image.new("RGB", (320, 240), "skyblue")
        ImageDraw.Draw(scene).rectangle((0, 170, 320, 240), fill="green")
        scene.paste(cat.resize((160, 160)), (left, 60))
        scene.save(folder / f"scene {i}.png")
    for colour in ("black", "white", "red"):
        Image.new("RGB", (200, 100), colour).save(folder / f"{colour}.png")
    Image.new("RGB", (100, 50), "black").save(folder / "black half.jpg")


@pytest.fixture(scope="module")
def pocket() -> oneclip.Encoder:
    return oneclip.load("pocket")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, pocket: oneclip.Encoder) -> Index:
    """An index of the files."""
    folder = tmp_path_factory.mktemp("duplicates")
    make_files(folder / "images")
    index = Index(folder / "index", model=pocket)
    index.update(folder / "images")
    return index


@pytest.fixture(scope="module")
def groups(index: Index) -> list[DuplicateGroup]:
    return index.duplicates()


def names(group: DuplicateGroup) -> list[str]:
    return [os.path.basename(file.path) for file in group.files]


def kind_of(groups: list[DuplicateGroup], name: str) -> str | None:
    """Return how a file compares with the best of its group; None if it is in no group."""
    for group in groups:
        if name in names(group):
            return group.kinds[names(group).index(name)]
    return None


def test_the_best_copy_comes_first(groups: list[DuplicateGroup]) -> None:
    (cats,) = (group for group in groups if "cat.png" in names(group))
    assert (
        names(cats)[0] == "cat.png"
    )  # as many pixels as the JPEGs, and lossless; a shorter path than its copy
    assert names(cats)[1] == "cat copy.png"
    assert names(cats).index("cat95.jpg") < names(cats).index("cat60.jpg")  # more bytes
    assert names(cats)[-1] == "cat half.png"  # fewest pixels


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cat copy.png", "bytes"),
        ("cat95.jpg", "pixels"),
        ("cat60.jpg", "pixels"),
        ("cat half.png", "pixels"),
        ("cat turned.jpg", "pixels"),
        ("cat cropped.png", "near"),
        ("black half.jpg", "pixels"),
    ],
)
def test_a_copy_is_found_with_its_kind(groups: list[DuplicateGroup], name: str, kind: str) -> None:
    assert kind_of(groups, name) == kind


@pytest.mark.parametrize("name", ["cat mirrored.png", "car.png", "house.png", "white.png", "red.png"])
def test_another_image_is_in_no_group(groups: list[DuplicateGroup], name: str) -> None:
    assert kind_of(groups, name) is None


def test_photographs_of_one_scene_are_not_grouped_although_their_embeddings_are_near(index: Index) -> None:
    entries = {os.path.basename(entry.path): entry for entry in index.entries()}
    scenes = [entries["scene 0.png"], entries["scene 1.png"]]
    snapshot = index.snapshot()
    a, b = snapshot.scan.vectors(snapshot.rows_of(np.array([scene.content for scene in scenes])))
    assert a @ b > 0.9
    groups = index.duplicates(near=0.9)
    assert kind_of(groups, "scene 0.png") is None
    assert kind_of(groups, "scene 1.png") is None


def test_similarities_are_cosines_with_the_best_copy(index: Index, groups: list[DuplicateGroup]) -> None:
    (cats,) = (group for group in groups if "cat.png" in names(group))
    snapshot = index.snapshot()
    rows = [snapshot.rows_of(np.array([file.content]))[0] for file in cats.files]
    vectors = snapshot.scan.vectors(np.array(rows))
    assert cats.similarities == pytest.approx((vectors @ vectors[0]).tolist(), abs=1e-5)


def test_the_kind_of_a_group_is_the_loosest(groups: list[DuplicateGroup]) -> None:
    assert {names(group)[0]: group.kind for group in groups} == {"black.png": "pixels", "cat.png": "near"}


def test_a_stricter_kind_leaves_the_others_out(index: Index) -> None:
    assert [names(group) for group in find_duplicates(index, kind="bytes")] == [["cat.png", "cat copy.png"]]
    found = find_duplicates(index, kind="pixels")
    assert kind_of(found, "cat half.png") == "pixels"
    assert kind_of(found, "cat cropped.png") is None


def test_only_selected_files_are_compared(index: Index) -> None:
    assert find_duplicates(index, where="format = png", kind="pixels")[-1].kind == "pixels"
    assert find_duplicates(index, where="format = jpeg and width < 150") == []


@pytest.mark.parametrize("near", [0.0, 1.5, -1])
def test_a_threshold_that_is_no_cosine_is_refused(index: Index, near: float) -> None:
    with pytest.raises(ConfigError, match="near is"):
        index.duplicates(near=near)


# ------------------------------------------------------------------------------------------- files that are not copies


@pytest.fixture
def two_copies(tmp_path: Path, encoder: oneclip.Encoder) -> tuple[Path, Index]:
    """A folder with two copies of an image, and its index."""
    folder = tmp_path / "images"
    folder.mkdir()
    drawing("car").save(folder / "a.png")
    os.utime(folder / "a.png", ns=(10**18, 10**18))  # long ago, so that the index trusts it
    shutil.copy2(folder / "a.png", folder / "b.png")
    index = Index(tmp_path / "index", model=encoder)
    index.update(folder)
    assert len(index.duplicates()) == 1
    return folder, index


def replace_by_link(folder: Path) -> None:
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to("a.png")


def replace_by_hard_link(folder: Path) -> None:
    (folder / "b.png").unlink()
    os.link(folder / "a.png", folder / "b.png")


@pytest.mark.parametrize("replace", [replace_by_link, replace_by_hard_link])
def test_two_names_of_one_file_are_not_copies(
    two_copies: tuple[Path, Index], replace: Callable[[Path], None]
) -> None:
    folder, index = two_copies
    replace(folder)
    index.update()
    assert len(index.entries()) == 2
    assert index.duplicates() == []


def test_a_file_that_is_gone_or_changed_since_is_not_a_copy(two_copies: tuple[Path, Index]) -> None:
    folder, index = two_copies
    drawing("house").save(folder / "b.png")
    assert index.duplicates() == []
    (folder / "b.png").unlink()
    assert index.duplicates() == []


def test_duplicates_are_found_across_indexes(tmp_path: Path, pocket: oneclip.Encoder) -> None:
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        drawing("car").save(tmp_path / str(i) / f"car{i}.{'png' if i else 'jpg'}")
    indexes = [Index(tmp_path / f"index{i}", model=pocket) for i in range(2)]
    for i, index in enumerate(indexes):
        index.update(tmp_path / str(i))
    (group,) = group_duplicates([(index, index.entries()) for index in indexes])
    assert names(group) == ["car1.png", "car0.jpg"]


# ------------------------------------------------------------------------------------------------------- the algorithm


def unit_vectors(count: int, generator: np.random.Generator) -> np.ndarray:
    vectors = generator.normal(size=(count, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def leaders_by_definition(hashes: np.ndarray, vectors: np.ndarray, near: float) -> list[int]:
    leaders: list[int] = []
    numbers = []
    for i in range(len(hashes)):
        found = [
            (-float(vectors[i] @ vectors[j]), j)
            for j in leaders
            if looks_alike(float(vectors[i] @ vectors[j]), int(hashes[i]), int(hashes[j]), near)
        ]
        numbers.append(min(found)[1] if found else i)
        if not found:
            leaders.append(i)
    return numbers


@pytest.mark.parametrize("block", [3, 64, 1000])
def test_leaders_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(near_groups, "BLOCK", block)
    monkeypatch.setattr(near_groups, "LEADERS_AT_ONCE", 2 * block + 1)
    generator = np.random.default_rng(0)
    origin = generator.integers(0, 40, 300)  # of each image among 40 different ones
    vectors = unit_vectors(40, generator)[origin] + 0.08 * unit_vectors(300, generator)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    flips = np.bitwise_or.reduce(1 << generator.integers(0, 63, (300, 5)), axis=1)
    hashes = generator.integers(-(2**63), 2**63 - 1, 40)[origin] ^ flips
    found = find_leaders(hashes, lambda rows: vectors[rows], 0.995)
    expected = leaders_by_definition(hashes, vectors, 0.995)
    assert found.numbers.tolist() == expected
    assert 40 < len(set(expected)) < 300
    cosines = (vectors * vectors[found.numbers]).sum(1)
    assert found.cosines == pytest.approx(cosines, abs=1e-5)


def test_images_that_only_a_chain_connects_are_not_grouped() -> None:
    angles = np.array([0.0, 0.25, 0.5])  # neighbours have a cosine of 0.969, the ends of 0.878
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = find_leaders(np.full(3, 12345), lambda rows: vectors[rows], 0.96)
    assert found.numbers.tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("cosine", "bits", "expected"),
    [(0.97, 0, True), (0.97, 10, True), (0.97, 11, False), (0.95, 0, False)],
)
def test_cosine_and_hash_must_both_agree(cosine: float, bits: int, expected: bool) -> None:
    assert looks_alike(cosine, 12345, 12345 ^ (2**bits - 1)) is expected


def test_the_sign_bit_of_a_hash_counts_as_one_bit() -> None:
    assert looks_alike(1.0, 12345, 12345 - 2**63)


def test_images_without_structure_need_nearly_equal_embeddings() -> None:
    assert not looks_alike(0.99, 0, -(2**63))
    assert looks_alike(0.9995, -(2**63), -(2**63))
