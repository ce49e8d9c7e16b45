"""The dataset of the pocket recipe: names, held-out words, batches. No network, tiny tables."""

from pathlib import Path

import numpy as np
import pytest
import torch

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from recipes.pocket.batches import PocketBatches  # noqa: E402
from recipes.pocket.captions import may_mirror  # noqa: E402
from recipes.pocket.catalogue import reason_to_leave_out  # noqa: E402
from recipes.pocket.clipart import clean_title  # noqa: E402
from recipes.pocket.drawing import draw_plain  # noqa: E402
from recipes.pocket.evaluation_sets import SAMPLE, SUBGROUPS, evaluation_set, read_sample  # noqa: E402
from recipes.pocket.names import NameCleaner  # noqa: E402
from recipes.pocket.near_copies import best_match, descriptors  # noqa: E402
from recipes.pocket.source_images import SourceImage  # noqa: E402
from recipes.pocket.split import FORMS, SPLIT_FILE, UNSEEN_WORDS, Split, concept_of, is_trainable, make_split  # noqa: E402


def icons(*names: str) -> dict[str, object]:
    return {"icons": dict.fromkeys(names)}


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("coffee-cup-outline", "coffee cup"),
        ("coffee-cup-filled", "coffee cup"),
        ("arrow-right-24", "arrow right"),
        ("dice-4", "dice 4"),
        ("user-alt-2", "user"),
        ("CoffeeCup", "coffee cup"),
        ("outline", "outline"),
    ],
)
def test_names_lose_their_style_and_keep_their_words(identifier: str, name: str) -> None:
    assert NameCleaner(icons(identifier), "any")(identifier) == name


def test_a_style_word_stays_where_the_set_does_not_use_it_as_a_style() -> None:
    many = [f"thing-{n}-bold" for n in range(20)] + ["traffic-light"]
    clean = NameCleaner(icons(*many), "any")
    assert clean("traffic-light") == "traffic light"
    assert clean("thing-bold") == "thing"


def test_the_suffixes_and_prefixes_that_a_set_declares_are_removed() -> None:
    data = {**icons("a"), "suffixes": {"line-duotone": "", "": ""}, "prefixes": {"baseline": ""}}
    assert NameCleaner(data, "any")("baseline-sofa-3-line-duotone") == "sofa"


@pytest.mark.parametrize(
    ("title", "cleaned"),
    [
        ("Blue Car 02 (by someone)", "blue car"),
        ("Part of the Flat Icon Collection", ""),
        ("Owl by J. Doe", "owl"),
    ],
)
def test_titles_of_clip_art_lose_numbers_and_authors(title: str, cleaned: str) -> None:
    assert clean_title(title) == cleaned


@pytest.mark.parametrize(
    "spdx", ["CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "GPL-3.0-only", "LGPL-2.1", ""]
)
def test_sets_with_conditions_on_derived_works_are_excluded(spdx: str) -> None:
    assert reason_to_leave_out("any", {"license": {"spdx": spdx}})


def test_permissive_sets_are_included() -> None:
    assert reason_to_leave_out("any", {"license": {"spdx": "MIT"}, "category": "UI 24px"}) == ""


@pytest.mark.parametrize(
    ("name", "aliases", "concept"),
    [
        ("umbrella off", [], "umbrella"),
        ("two umbrellas", [], "umbrella"),
        ("beachumbrella", [], "umbrella"),
        ("rain", ["closed umbrella"], "umbrella"),
        ("knife", [], ""),
        ("library", ["books"], ""),
    ],
)
def test_unseen_words_are_found_in_names_aliases_and_compounds(
    name: str, aliases: list[str], concept: str
) -> None:
    assert concept_of(name, aliases, ()) == concept


def test_there_are_thirty_unseen_words() -> None:
    assert len(set(UNSEEN_WORDS)) == 30


def source_image(identifier: str, name: str, *keywords: str) -> SourceImage:
    return SourceImage(identifier, "mono", "", identifier.split(":")[0], "MIT", name, [], list(keywords), "")


def test_a_keyword_that_is_an_unseen_word_excludes_an_image_from_training() -> None:
    assert not is_trainable(source_image("mdi:rain", "rain", "umbrella"), set())
    assert is_trainable(source_image("mdi:rain", "rain", "weather"), set())
    assert not is_trainable(source_image("twemoji:rain", "rain"), set())


def test_captions_of_a_held_out_split_are_unique_and_near_copies_absent(tmp_path: Path) -> None:
    source_images = [
        source_image("ph:a", "sun"),
        source_image("ph:b", "sun"),
        source_image("ph:c", "moon"),
        source_image("mdi:u", "umbrella"),
    ]
    split = make_split(source_images, near_copies={"ph:c"})
    assert split.held_out == {"ph": ["ph:a"], "unseen": ["mdi:u"]}
    assert split.concepts == {"mdi:u": "umbrella"}
    split.write(tmp_path / "split.json.gz")
    assert Split.read(tmp_path / "split.json.gz") == split


def test_the_committed_split_holds_six_sets_and_the_thirty_words() -> None:
    split = Split.read(SPLIT_FILE)
    assert set(split.held_out) == {"twemoji", "openmoji", "ph", "healthicons", "openclipart", "unseen"}
    assert set(split.concepts.values()) == set(UNSEEN_WORDS)
    assert all(
        identifier.startswith(f"{name}:")
        for name in ("twemoji", "openmoji")
        for identifier in split.held_out[name]
    )
    assert not set(split.held_out["unseen"]) - set(split.concepts)


def test_a_moved_and_scaled_drawing_is_a_near_copy_and_another_is_not() -> None:
    alpha = np.zeros((3, 64, 64), np.uint8)
    alpha[0, 10:50, 10:20] = alpha[0, 10:20, 10:50] = 255  # a corner
    alpha[1, 4:34, 24:32] = alpha[1, 4:12, 24:54] = 255  # the same, smaller and elsewhere
    alpha[2, 10:50, 25:35] = alpha[2, 25:35, 10:50] = 255  # a cross
    found = descriptors(alpha)
    value, index = best_match(found[:1], found[1:])
    assert index.item() == 0
    assert value.item() > 0.9
    assert (found[0] @ found[2]).item() < 0.6


@pytest.mark.parametrize(
    ("name", "mirrors"), [("cat", True), ("arrow left", False), ("letter b", False), ("dice 4", False)]
)
def test_arrows_letters_and_numbers_are_not_mirrored(name: str, mirrors: bool) -> None:
    assert may_mirror(name) is mirrors


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """200 one-colour and 50 colour images of 120 names; the name of one is an alias of another."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "mono.npy", rng.integers(0, 256, (200, 64, 64), dtype=np.uint8))
    np.save(tmp_path / "colour.npy", rng.integers(0, 256, (50, 64, 64, 4), dtype=np.uint8))
    rows = [
        {
            "id": f"set:{kind}{row}", "kind": kind, "row": row, "set": "set", "licence": "MIT",
            "name": f"name {row % 120}", "aliases": [f"name {row + 1}"] if row % 7 == 0 else [],
            "keywords": ["common", f"word {row}"], "category": "things", "weight": 1.0, "concept": "",
            "subgroup": "animal-bird" if row % 5 == 0 else "",
            "split": "twemoji" if kind == "colour" and row < 5 else "train",
        }
        for kind, count in (("mono", 200), ("colour", 50))
        for row in range(count)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    return tmp_path


@pytest.mark.parametrize("size", [32, 64])
def test_a_batch_is_a_function_of_seed_and_step(data: Path, size: int) -> None:
    first, second = (PocketBatches(data, 48, size, seed=3) for _ in range(2))
    first.batch(0)
    images, texts = first.batch(7)
    again, same = second.batch(7)
    assert images.shape == (48, 3, size, size)
    assert images.dtype == torch.uint8
    assert torch.equal(images, again)
    assert texts == same
    assert texts != first.batch(8)[1]
    assert texts != PocketBatches(data, 48, size, seed=4).batch(7)[1]


def test_no_caption_of_a_batch_fits_two_of_its_images(data: Path) -> None:
    batches = PocketBatches(data, 64, 32, seed=0)
    for step in range(20):
        picks = batches.choose(np.random.default_rng(step))
        words = [word for i in picks for word in {batches.names[i], *batches.aliases[i]}]
        assert len(words) == len(set(words))
        assert len(set(batches.batch(step)[1])) == 64


def test_a_description_fits_all_images_that_have_its_words(data: Path) -> None:
    batches = PocketBatches(data, 64, 32, seed=0)
    images, texts, descriptions = batches.described_batch(0)
    assert len(images) == len(texts) == 64
    assert len(set(descriptions.texts)) == len(descriptions.texts) == len(descriptions.owners) > 16
    row = descriptions.texts.index("common")  # a keyword of every image
    assert descriptions.also_fits[row].sum() == 63
    assert not descriptions.also_fits[row, descriptions.owners[row]]


def test_held_out_images_are_not_in_batches(data: Path) -> None:
    assert len(PocketBatches(data, 8, 32)) == 245


def test_a_tokenizer_turns_captions_into_ids(data: Path) -> None:
    batches = PocketBatches(data, 8, 32, tokenizer=lambda texts: torch.tensor([len(text) for text in texts]))
    assert batches.batch(0)[1].shape == (8,)


def test_a_batch_larger_than_the_names_is_refused(data: Path) -> None:
    with pytest.raises(ValueError, match="a batch of 100 needs 130 names; 120 found"):
        PocketBatches(data, 100, 32)


def test_held_out_images_are_drawn_without_augmentation(data: Path) -> None:
    found = evaluation_set(data, "twemoji")
    assert found.images.shape == (5, 3, 64, 64)
    assert found.captions == tuple(f"name {n}" for n in range(5))
    classification = evaluation_set(data, SUBGROUPS)
    assert (classification.classifies, len(classification.images), len(classification.captions)) == (
        True,
        1,
        26,
    )
    with pytest.raises(ValueError, match="no split 'ph'"):
        evaluation_set(data, "ph")


def test_plain_drawings_are_black_on_white_and_colour_over_white() -> None:
    alpha = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 64, 32)
    assert draw_plain(alpha)[0, :, 0, :2].tolist() == [[255, 0]] * 3
    red = torch.tensor([200, 0, 0, 255], dtype=torch.uint8).expand(1, 64, 64, 4).clone()
    red[..., 32:, 3] = 0
    assert draw_plain(red)[0, :, 0, 0].tolist() == [200, 0, 0]
    assert draw_plain(red)[0, :, 0, 63].tolist() == [255, 255, 255]


def test_the_committed_sample_is_small_attributed_and_free_of_openmoji() -> None:
    from recipes.pocket.evaluation_sets import SAMPLE_FILE

    assert SAMPLE_FILE.stat().st_size < 1_000_000
    assert "openmoji" not in SAMPLE
    sample = read_sample()
    held_out = Split.read(SPLIT_FILE).held_out
    for name, found in sample.items():
        assert len(set(found.captions)) == SAMPLE[name] == len(found.images)
        assert set(found.ids) <= set(held_out[name])
    with np.load(SAMPLE_FILE) as stored:
        assert "CC-BY-4.0" in str(stored["attribution"])


def test_no_form_of_an_unseen_word_is_ambiguous() -> None:
    assert set(FORMS.values()) == set(UNSEEN_WORDS)
