"""The report of an evaluation: what it says, and that it is one page that needs nothing else."""

import dataclasses
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import oneclip
from oneclip.embed.items import Failure, Item
from oneclip.errors import DataError, ImageError, OutputError
from oneclip.evaluate.classification import score_predictions
from oneclip.evaluate.comparison import compare_results
from oneclip.evaluate.data import EvaluationDataset
from oneclip.evaluate.data.dataset import Sample
from oneclip.evaluate.encoded import EncodedSplit, Predictions, Score
from oneclip.evaluate.report import write_report
from oneclip.evaluate.result import Result

VOID = {"meta", "img", "br"}  # those of SVG end with "/>"
NAMES = ["airplane", "a <b>bird</b>", "cat", "dog", "frog", "deer", "horse", "ship", "truck", "car"]


class Page(HTMLParser):
    """Words, tags and rows of tables of a page; fails if a tag is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self.pieces: list[str] = []
        self._open: list[str] = []
        self._row: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self._open
        self.words = " ".join(self.pieces)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self._row = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "tr":
            self.rows.append(" ".join(self._row))

    def handle_data(self, data: str) -> None:
        if (text := data.strip()) and self._open[-1] != "style":
            self.pieces.append(text)
            self._row.append(text)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def png(colour: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (90, 60), colour).save(content, "PNG")
    return content.getvalue()


def make_samples(count: int, classes: int, groups: bool = False) -> list[Sample]:
    content = png("orange")
    return [
        Sample(
            Item(f"photos/{i}.png", lambda: content),
            label=i % classes,
            group=("day", "night")[i % 2] if groups else "",
        )
        for i in range(count)
    ]


def make_result(
    model: str,
    predicted: list[int],
    *,
    classes: list[str] = NAMES,
    name: str = "wds/cifar10",
    groups: bool = False,
) -> Result:
    """Make a result of images with the labels 0, 1, …; the first is predicted with the lowest confidence."""
    samples = make_samples(len(predicted), len(classes), groups)
    dataset = EvaluationDataset(name, "classes", {"test": samples}, classes, source=f"/data/{name}")
    labels, chosen = np.array([each.label for each in samples]), np.array(predicted)
    top = (chosen[:, None] + np.arange(5)) % len(classes)
    confidence = np.linspace(0.5, 0.99, len(samples)).astype(np.float32)
    split = EncodedSplit(np.zeros((len(samples), 2), np.float32), samples)
    score = score_predictions(dataset, split, Predictions(labels, chosen, confidence, top))
    architecture, _, tag = model.partition(":")
    made_by = {"precision": "fp32", "templates": ["a photo of a {}."], "images": len(samples)}
    return Result(model, architecture, tag, dataset, "zeroshot_classification", score, split, [], made_by)


GOOD = [i % 10 for i in range(40)]
WORSE = [3 if i % 10 == 2 else i % 10 for i in range(40)]  # each cat is taken for a dog


def write(tmp_path: Path, *results: Result, **options) -> Page:
    write_report(tmp_path / "report.html", results, **options)
    return Page(tmp_path / "report.html")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("report")
    skipped = [
        Failure("photos/a.jpg", "truncated"),
        Failure("photos/b.jpg", "the image in photos/b.jpg is truncated"),
    ]
    first = dataclasses.replace(make_result("ViT-B-32:openai", WORSE, groups=True), skipped=skipped)
    return write(folder, first, make_result("tiny", GOOD), failed=[Failure("gone", "no such folder")])


def test_page_needs_nothing_else(page: Page) -> None:
    sources = [each.get("src") or "" for each in page.all("img")]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert all((each.get("href") or "").startswith("#") for each in page.all("a"))
    assert not page.all("script")
    assert not page.all("link")
    assert "url(" not in page.source


def test_contents_lead_to_the_sections(page: Page) -> None:
    targets = {f"#{each['id']}" for each in page.all("section")}
    assert {each["href"] for each in page.all("a")} == targets


def test_names_are_escaped(page: Page) -> None:
    assert "a <b>bird</b>" in page.words
    assert "<b>bird</b>" not in page.source


def test_main_metrics_are_in_percent_with_intervals(page: Page) -> None:
    result = make_result("tiny", WORSE)
    low, high = (100 * each for each in result.score.intervals["acc1"])
    row = next(row for row in page.rows if row.startswith("wds/cifar10: zero-shot classification acc1"))
    assert f"90.0 {low:.1f} to {high:.1f}" in row
    assert "100.0 100.0 to 100.0" in row


def test_models_are_compared_item_by_item(page: Page) -> None:
    found = compare_results(make_result("a", WORSE), make_result("b", GOOD))
    row = next(row for row in page.rows if "tiny − ViT-B-32:openai" in row)
    assert f"+10.0 +{100 * found.low:.1f} to +{100 * found.high:.1f} clear, 40 items" in row


def test_distance_to_published_figures_is_shown(page: Page) -> None:
    assert any("ViT-B-32:openai (CIFAR-10) acc1 90.00 89.83 +0.2" in row for row in page.rows)


def test_worst_classes_come_first(page: Page) -> None:
    assert "cat 4 0.0 100.0" in page.rows
    assert page.rows.index("cat 4 0.0 100.0") < page.rows.index("dog 4 100.0 100.0")


def test_matrix_counts_what_was_predicted(page: Page) -> None:
    cats = next(i for i, row in enumerate(page.rows) if row == "cat 4" and page.rows[i + 1] == "dog 4")
    assert page.rows[cats - 1] == "a <b>bird</b> 4"


def test_groups_are_listed_worst_first(page: Page) -> None:
    rows = [row.split()[0] for row in page.rows if row.startswith(("day 20", "night 20"))]
    assert rows == ["day", "night"]  # all cats have even numbers


def test_calibration_is_drawn_for_each_model(page: Page) -> None:
    drawn = [each for each in page.all("svg") if "Accuracy over confidence" in (each["aria-label"] or "")]
    assert len(drawn) == 2


def test_mistakes_show_the_most_confident_first(page: Page) -> None:
    names = re.findall(r"confidence (\d+)% · photos/(\d+)\.png", page.words)
    assert [name for _, name in names] == ["32", "22", "12", "2"]
    assert "predicted dog , right is cat" in page.words


def test_what_was_left_out_is_counted_by_reason(page: Page) -> None:
    assert "truncated 2 photos/a.jpg, photos/b.jpg" in page.rows
    assert "gone no such folder" in page.rows


def test_what_made_it_is_shown(page: Page) -> None:
    assert "precision fp32" in page.rows
    assert "templates a photo of a {}." in page.rows


def test_page_of_1000_classes_stays_readable(tmp_path: Path) -> None:
    classes = [f"class {i}" for i in range(1000)]
    predicted = [7 if i % 1000 < 30 else i % 1000 for i in range(2000)]
    page = write(tmp_path, make_result("tiny", predicted, classes=classes, name="large"))
    assert "the other 980 classes" in page.words
    assert "The 20 most frequent of 29 confusions" in page.words
    assert "class 0 class 7 2 100.0" in page.rows
    assert len(page.source) < 500_000


def test_mistakes_have_heat_maps_with_an_encoder(tmp_path: Path) -> None:
    result = make_result("pocket", [1, 1], classes=["cat", "dog"], name="two")
    page = write(tmp_path, result, encoders={"pocket": oneclip.load("pocket")})
    assert [each["alt"] for each in page.all("img")] == ["", "why “dog”", "why “cat”"]
    assert "The first 6 of each model have heat maps" in page.words


def test_linear_probe_has_no_heat_maps_of_texts(tmp_path: Path) -> None:
    result = make_result("pocket", [1, 1], classes=["cat", "dog"], name="two")
    result.task = "linear_probe"
    page = write(tmp_path, result, encoders={"pocket": None})
    assert len(page.all("img")) == 1


def test_image_that_is_gone_is_named(tmp_path: Path) -> None:
    def read() -> bytes:
        raise ImageError("gone.png does not exist")

    result = make_result("tiny", [1, 1], classes=["cat", "dog"], name="two")
    samples = [Sample(Item("gone.png", read), label=0), *list(result.encoded.samples)[1:]]
    result.encoded = EncodedSplit(result.encoded.embeddings, samples)
    assert "gone.png cannot be read again" in write(tmp_path, result).words


def test_result_of_a_file_lists_its_images_again(tmp_path: Path) -> None:
    result = make_result("tiny", WORSE)
    result.encoded = None
    assert "photos/32.png" in write(tmp_path, result).words


def test_missed_texts_of_retrieval_are_shown(tmp_path: Path) -> None:
    samples = [
        dataclasses.replace(sample, texts=(f"text {i}", f"other {i}"))
        for i, sample in enumerate(make_samples(3, 3))
    ]
    dataset = EvaluationDataset("pairs", "captions", {"test": samples})
    names = ["image_retrieval_recall@1", "text_retrieval_recall@1", "image_retrieval_recall@5"]
    score = Score(dict(zip(names, [0.5, 2 / 3, math.nan], strict=True)), names[0])
    score.items = {names[0]: np.array([1, 0, 0.5]), names[1]: np.array([1.0, 0.0, 1.0])}
    split = EncodedSplit(np.zeros((3, 2), np.float32), samples)
    page = write(tmp_path, Result("tiny", "tiny", "", dataset, "zeroshot_retrieval", score, split))
    assert "right is text 1 its texts are not the closest · photos/1.png" in page.words
    assert "photos/0.png" not in page.words
    assert not any("recall@5" in row for row in page.rows)


def test_few_shot_curve_has_intervals_and_the_zero_shot_accuracy(tmp_path: Path) -> None:
    zero_shot = make_result("tiny", WORSE)
    metrics = {"acc1@1": 0.5, "acc1@4": 0.7}
    score = Score(
        metrics, "acc1@4", intervals={name: (value - 0.1, value + 0.1) for name, value in metrics.items()}
    )
    page = write(tmp_path, zero_shot, Result("tiny", "tiny", "", zero_shot.dataset, "few_shot", score))
    assert "tiny, 4 per class: 70.0%" in page.words
    assert "Dotted lines: zero-shot." in page.words
    assert "acc1@4 70.0 60.0 to 80.0" in page.rows


def test_mean_over_data_sets_is_that_of_the_models_on_all_of_them(tmp_path: Path) -> None:
    page = write(tmp_path, make_result("a", GOOD), make_result("a", WORSE, name="b"), make_result("c", GOOD))
    assert "Mean of 2: zero-shot classification acc1 95.0 –" in page.rows


def test_multilabel_classes_have_their_average_precision(tmp_path: Path) -> None:
    dataset = EvaluationDataset("many", "multilabel", {"test": []}, ["cat", "dog"])
    name = "mean_average_precision"
    score = Score({name: 0.75}, name, per_class={"cat": 1.0, "dog": 0.5})
    page = write(tmp_path, Result("tiny", "tiny", "", dataset, "zeroshot_classification", score))
    assert "dog 50.0" in page.rows
    assert "2 classes, worst first; mean average precision, percent" in page.words


def test_doubtful_published_figure_is_marked(tmp_path: Path) -> None:
    result = make_result("ViT-B-32:datacomp_s_s13m_b4k", GOOD)
    assert any("all figures equal those of" in row for row in write(tmp_path, result).rows)


def test_report_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results"):
        write_report(tmp_path / "report.html", [])


def test_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"report\.html"):
        write_report(tmp_path / "no" / "report.html", [make_result("tiny", GOOD)])


def test_comparison_uses_the_images_that_both_could_read() -> None:
    first, other = make_result("a", WORSE), make_result("b", GOOD)
    kept = [i for i in range(40) if i != 2]  # one of the four cats
    other.encoded = EncodedSplit(other.encoded.embeddings[kept], [other.encoded.samples[i] for i in kept])
    other.score.items = {name: values[kept] for name, values in other.score.items.items()}
    other.skipped = [Failure("photos/2.png", "truncated")]
    found = compare_results(first, other)
    assert found.items == 39
    assert found.difference == pytest.approx(3 / 39)
