"""Encoder as an object: assigned parts, copies, arrays and tensors, labels, similarity."""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from PIL import Image
from tiny import DIM, PIXELS, picture, tiny_cfg, write_tiny_model
from torch.nn import functional as F

import oneclip
from oneclip import checkpoint, errors
from oneclip.config import PreprocessCfg
from oneclip.encoder import Encoder
from oneclip.image import Preprocess
from oneclip.model import build_model
from oneclip.text import CLIPTokenizer
from tests import programs

TEXTS = ["a dog", "a cat on a mat", "a tree"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def clip(weights: Path) -> Encoder:
    return oneclip.load(weights, device="cpu")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for i in range(3):
        picture(i).save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(3)]


def other_model(**changes: object) -> Any:
    torch.manual_seed(7)
    return build_model(tiny_cfg(**changes))


def image_features_of(model: Any, preprocess: Callable[[Image.Image], torch.Tensor]) -> np.ndarray:
    """Encode three images by the module itself."""
    with torch.no_grad():
        pixels = torch.stack([preprocess(picture(i)) for i in range(3)])
        return F.normalize(model.eval().encode_image(pixels).float(), dim=-1).numpy()


def text_features_of(model: Any, ids: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return F.normalize(model.eval().encode_text(ids).float(), dim=-1).numpy()


def three(clip: Encoder) -> np.ndarray:
    return clip.encode_images([picture(i) for i in range(3)])


# ------------------------------------------------------------------------------------------------- assigned parts


def test_an_assigned_model_encodes(clip: Encoder) -> None:
    before = three(clip)
    clip.encode_texts(TEXTS)
    tuned = other_model().train()
    clip.model = tuned
    assert clip.model is tuned
    assert not tuned.training
    assert not np.allclose(three(clip), before, atol=1e-2)
    np.testing.assert_allclose(three(clip), image_features_of(tuned, clip.preprocess), atol=1e-6)
    np.testing.assert_allclose(
        clip.encode_texts(TEXTS), text_features_of(tuned, clip.tokenizer(TEXTS)), atol=1e-6
    )
    assert "plain module" not in clip.inference.describe()[0]


def test_an_encoder_computes_in_the_precision_of_the_assigned_model(clip: Encoder) -> None:
    clip.model = other_model().bfloat16()
    assert clip.precision == "bf16"
    assert (three(clip) * image_features_of(other_model(), clip.preprocess)).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_requested_precision_stays(weights: Path, precision: str) -> None:
    clip = oneclip.load(weights, device="cpu", precision=precision)
    clip.model = other_model()
    assert clip.precision == precision
    assert (three(clip) * image_features_of(clip.model, clip.preprocess)).sum(axis=1).min() > 0.99


def test_the_logit_scale_is_that_of_the_assigned_model(clip: Encoder) -> None:
    clip.model = other_model(init_logit_scale=2.0, init_logit_bias=-3.0)
    assert clip.logit_scale == pytest.approx(np.exp(2.0))
    assert clip.logit_bias == -3.0


def test_a_model_of_another_image_size_needs_its_preprocessing(clip: Encoder) -> None:
    vision = replace(tiny_cfg().vision_cfg, image_size=48)
    clip.model = other_model(vision_cfg=vision)
    with pytest.raises(errors.ConfigError, match=r"32 x 32 pixels, but the model takes 48 x 48.*preprocess"):
        three(clip)
    clip.preprocess = Preprocess(PreprocessCfg(size=48))
    assert clip.image_size == (48, 48)
    np.testing.assert_allclose(three(clip), image_features_of(clip.model, clip.preprocess), atol=1e-6)


def test_texts_have_the_context_length_of_the_assigned_model(clip: Encoder) -> None:
    text = replace(tiny_cfg().text_cfg, context_length=12)
    clip.model = other_model(text_cfg=text)
    assert clip.context_length == 12
    expected = text_features_of(clip.model, CLIPTokenizer(12)(TEXTS))
    np.testing.assert_allclose(clip.encode_texts(TEXTS), expected, atol=1e-6)
    assert len(clip.encode_labels(TEXTS)) == 3
    with pytest.raises(errors.TextTooLongError, match="12"):
        clip.encode_texts("a word or two more than this model was ever made to read")
    with pytest.raises(errors.ShapeError, match="from 1 to 12"):
        clip.encode_tokens(torch.ones(1, 13, dtype=torch.long))


def test_a_model_that_reads_padding_gets_whole_rows(clip: Encoder) -> None:
    text = replace(tiny_cfg().text_cfg, no_causal_mask=True, pool_type="last")
    clip.model = other_model(text_cfg=text)
    np.testing.assert_allclose(
        clip.encode_texts(TEXTS), text_features_of(clip.model, clip.tokenizer(TEXTS)), atol=1e-6
    )
    with pytest.raises(errors.ShapeError, match="reads the padding"):
        clip.encode_tokens(torch.ones(1, 5, dtype=torch.long))


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), "ViT-B/32", None])
def test_an_object_that_is_not_a_model_is_refused_and_changes_nothing(clip: Encoder, model: object) -> None:
    before, own = three(clip), clip.model
    with pytest.raises(errors.ConfigError, match=rf"model must be .* found a {type(model).__name__}"):
        clip.model = model  # type: ignore[assignment]
    assert clip.model is own
    np.testing.assert_array_equal(three(clip), before)


def test_a_model_of_another_width_is_refused(clip: Encoder) -> None:
    with pytest.raises(errors.ConfigError, match=r"have 16 numbers, and those of the model assigned 24"):
        clip.model = other_model(embed_dim=24)
    assert clip.encode_texts(TEXTS).shape == (3, DIM)


def test_an_assigned_preprocessing_is_used(clip: Encoder) -> None:
    before = three(clip)
    clip.preprocess = Preprocess(PreprocessCfg(size=PIXELS, mean=(0.5,) * 3, std=(0.5,) * 3))
    assert not np.allclose(three(clip), before, atol=1e-3)
    np.testing.assert_allclose(three(clip), image_features_of(clip.model, clip.preprocess), atol=1e-6)
    clip.encode_images(picture(), decode="fast")


def test_a_preprocessing_may_be_any_function(clip: Encoder) -> None:
    def gray(image: Image.Image) -> torch.Tensor:
        small = image.convert("L").resize((PIXELS, PIXELS))
        return torch.from_numpy(np.array(small)).float().div(255).expand(3, -1, -1)

    clip.preprocess = gray  # type: ignore[assignment]
    assert clip.image_size == (PIXELS, PIXELS)
    np.testing.assert_allclose(three(clip), image_features_of(clip.model, gray), atol=1e-6)
    with pytest.raises(errors.ConfigError, match="function without a configuration"):
        clip.encode_images(picture(), decode="fast")
    with pytest.raises(errors.ConfigError, match="found a NoneType"):
        clip.preprocess = None  # type: ignore[assignment]


def test_positions_that_were_resized_take_images_of_their_size(clip: Encoder) -> None:
    visual = clip.model.visual
    with torch.no_grad():
        visual.positional_embedding = torch.nn.Parameter(torch.randn(1 + 9, 32))
    clip.preprocess = Preprocess(PreprocessCfg(size=48))
    visual.image_size = visual.grid_size = None  # the plan reads neither
    pixels = torch.stack([clip.preprocess(picture(i)) for i in range(3)])
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(3, 1, -1), x], dim=1) + visual.positional_embedding
    expected = visual.ln_post(visual.transformer(visual.ln_pre(x))[:, 0]) @ visual.proj
    torch.testing.assert_close(clip.encode_pixels(pixels), expected.detach(), atol=1e-5, rtol=1e-5)


def test_an_assigned_tokenizer_is_used(clip: Encoder) -> None:
    clip.tokenizer = CLIPTokenizer(77, clean="whitespace")
    expected = text_features_of(clip.model, CLIPTokenizer(77, clean="whitespace")(["A Dog"]))
    np.testing.assert_allclose(clip.encode_texts("A Dog"), expected, atol=1e-6)
    with pytest.raises(errors.ConfigError, match=r"pad_token_id.* found a function"):
        clip.tokenizer = image_features_of  # type: ignore[assignment]


# -------------------------------------------------------------------------------------------------------- copies


def cloudpickled(clip: Encoder) -> Encoder:
    """Copy an encoder as Ray does for a worker."""
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    found: Encoder = cloudpickle.loads(cloudpickle.dumps(clip))
    return found


def dumped_by_joblib(clip: Encoder) -> Encoder:
    file = io.BytesIO()
    joblib.dump(clip, file)
    found: Encoder = joblib.load(file)
    return found


COPIES: dict[str, Callable[[Encoder], Encoder]] = {
    "pickle": lambda clip: pickle.loads(pickle.dumps(clip)),
    "deepcopy": copy.deepcopy,
    "cloudpickle": cloudpickled,
    "joblib": dumped_by_joblib,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "fp16"])
def test_a_copy_is_the_same_and_independent(
    weights: Path, precision: str, copied: Callable[[Encoder], Encoder]
) -> None:
    clip = oneclip.load(weights, device="cpu", precision=precision, max_pixels=10_000)
    images, texts = three(clip), clip.encode_texts(TEXTS)  # builds plans
    again = copied(clip)
    assert (again.precision, again.name, again.max_pixels) == (precision, clip.name, 10_000)
    np.testing.assert_array_equal(three(again), images)
    np.testing.assert_array_equal(again.encode_texts(TEXTS), texts)
    assert again.inference.describe() == clip.inference.describe()
    with torch.no_grad():
        again.model.visual.proj.zero_()
        again.model.visual.proj[0, 0] = 1
    np.testing.assert_array_equal(three(clip), images)
    assert not np.array_equal(three(again), images)


def test_no_plan_is_pickled(clip: Encoder) -> None:
    before = len(pickle.dumps(clip))
    three(clip)
    assert len(pickle.dumps(clip)) == before


def encode_elsewhere(clip: Encoder) -> tuple[np.ndarray, np.ndarray]:
    return three(clip), clip.encode_texts(TEXTS)


def test_an_encoder_can_be_sent_to_another_process(clip: Encoder) -> None:
    three(clip)
    with programs.FORKS.Pool(1) as pool:
        images, texts = pool.apply(encode_elsewhere, [clip])
    np.testing.assert_array_equal(images, three(clip))
    np.testing.assert_array_equal(texts, clip.encode_texts(TEXTS))


def test_an_encoder_works_in_the_processes_of_joblib(clip: Encoder) -> None:
    with joblib.parallel_config(backend="loky", n_jobs=2):
        for images, texts in joblib.Parallel()(joblib.delayed(encode_elsewhere)(clip) for _ in range(2)):
            np.testing.assert_array_equal(images, three(clip))
            np.testing.assert_array_equal(texts, clip.encode_texts(TEXTS))
    get_reusable_executor().shutdown(wait=True)  # its processes would live five more minutes


# --------------------------------------------------------------------------------------------- arrays and tensors


def test_encode_pixels_and_tokens_take_arrays_and_tensors(clip: Encoder) -> None:
    pixels = torch.stack([clip.preprocess(picture(i)) for i in range(3)])
    ids = clip.tokenizer(TEXTS)
    for encode, batch in ((clip.encode_pixels, pixels), (clip.encode_tokens, ids)):
        tensor, array = encode(batch), encode(batch.numpy())
        assert isinstance(tensor, torch.Tensor)
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, tensor.numpy())
    np.testing.assert_array_equal(clip.encode_tokens(ids.numpy().astype(np.uint16)), array)
    np.testing.assert_array_equal(clip.encode_tokens(ids.numpy().astype(">i4")), array)
    flipped = pixels.numpy()[:, :, ::-1]
    np.testing.assert_array_equal(
        clip.encode_pixels(flipped), clip.encode_pixels(torch.from_numpy(flipped.copy())).numpy()
    )


def test_an_array_is_returned_in_float32_in_every_precision(weights: Path) -> None:
    clip = oneclip.load(weights, device="cpu", precision="bf16")
    pixels = torch.zeros(1, 3, PIXELS, PIXELS)
    np.testing.assert_array_equal(
        clip.encode_pixels(pixels.numpy()), clip.encode_pixels(pixels).float().numpy()
    )


@pytest.mark.parametrize(
    "batch", [[[0.0]], "pixels", np.array(["a"]), np.zeros((1, 3, PIXELS, PIXELS), np.uint8)]
)
def test_anything_but_an_array_of_numbers_is_refused(clip: Encoder, batch: Any) -> None:
    with pytest.raises(errors.ShapeError, match=r"NumPy array or a torch tensor|takes floats"):
        clip.encode_pixels(batch)


def test_probabilities_take_arrays_and_tensors(clip: Encoder) -> None:
    images, texts = three(clip), clip.encode_texts(TEXTS)
    expected = torch.from_numpy(clip.logit_scale * images @ texts.T).softmax(dim=1)
    array = clip.probabilities(images, texts)
    assert isinstance(array, np.ndarray)
    np.testing.assert_allclose(array, expected.numpy(), atol=1e-6)
    tensor = clip.probabilities(torch.from_numpy(images), torch.from_numpy(texts))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert isinstance(clip.probabilities(torch.from_numpy(images), texts), torch.Tensor)
    assert isinstance(clip.probabilities(images, torch.from_numpy(texts)), np.ndarray)
    assert clip.probabilities(images[:0], texts).shape == (0, 3)


def test_features_that_are_not_normalized_give_the_same_probabilities(clip: Encoder) -> None:
    pixels = torch.stack([clip.preprocess(picture(i)) for i in range(3)])
    raw = clip.probabilities(clip.encode_pixels(pixels), clip.encode_tokens(clip.tokenizer(TEXTS)))
    np.testing.assert_allclose(
        raw.numpy(), clip.probabilities(three(clip), clip.encode_texts(TEXTS)), atol=1e-6
    )


@pytest.mark.parametrize("wrong", [np.zeros(DIM, np.float32), np.zeros((2, 5), np.float32), [[0.0] * DIM]])
def test_features_of_another_shape_are_refused(clip: Encoder, wrong: Any) -> None:
    with pytest.raises(errors.ShapeError, match=r"image_features must be"):
        clip.probabilities(wrong, clip.encode_texts(TEXTS))
    with pytest.raises(errors.ShapeError, match=r"text_features must be"):
        clip.probabilities(three(clip), wrong)


# ------------------------------------------------------------------------------------------------------- together


def test_similarity_is_the_cosine(clip: Encoder, paths: list[str]) -> None:
    images, texts = three(clip), clip.encode_texts(TEXTS)
    expected = (images / np.linalg.norm(images, axis=1)[:, None]) @ (
        texts / np.linalg.norm(texts, axis=1)[:, None]
    ).T
    for some in (paths, images, 3 * images):
        for others in (TEXTS, texts, torch.from_numpy(2 * texts)):
            found = clip.similarity(some, others)
            assert isinstance(found, np.ndarray)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-6)
    tensor = clip.similarity(torch.from_numpy(images), TEXTS)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-6)
    assert clip.similarity(paths[0], "a dog").shape == (1, 1)
    assert clip.similarity([], TEXTS).shape == (0, 3)
    with pytest.raises(errors.ShapeError, match=r"image_features must be floats of shape \(N, 16\)"):
        clip.similarity(torch.zeros(1, 3, PIXELS, PIXELS), TEXTS)
    with pytest.raises(errors.ShapeError, match=r"text_features must be floats of shape \(N, 16\)"):
        clip.similarity(paths, np.zeros((2, 5), np.float32))


def test_a_gray_image_is_an_image(clip: Encoder) -> None:
    gray = np.linspace(0, 1, 20 * 24, dtype=np.float32).reshape(20, 24)
    np.testing.assert_allclose(clip.similarity(gray, TEXTS), clip.similarity([gray], TEXTS), atol=1e-7)


def test_the_logit_scale_is_a_number(tmp_path: Path, clip: Encoder) -> None:
    assert clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)  # Radford et al. 2021; stored in fp16
    assert clip.logit_bias is None
    path = write_tiny_model(tmp_path / "tiny.safetensors", init_logit_scale=1.5, init_logit_bias=-10.0)
    sigmoid = oneclip.load(path, device="cpu", precision="bf16")
    assert (sigmoid.logit_scale, sigmoid.logit_bias) == (pytest.approx(np.exp(1.5)), -10.0)


SENTENCES = ["a photo of a {}.", "{} in the snow", "art of the {}"]


def mean_of(clip: Encoder, prompts: list[list[str]]) -> np.ndarray:
    """Average the embeddings of each row, and normalize the mean."""
    means = np.stack([clip.encode_texts(row).astype(np.float64).mean(axis=0) for row in prompts])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def test_several_templates_are_averaged(clip: Encoder, paths: list[str]) -> None:
    labels = ["cat", "dog"]
    expected = mean_of(clip, [[sentence.replace("{}", label) for sentence in SENTENCES] for label in labels])
    features = clip.encode_labels(labels, SENTENCES)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-6)
    ranking = dict(clip.classify(paths[0], labels, template=SENTENCES))
    logits = clip.logit_scale * clip.encode_images(paths[0]) @ expected.T
    probabilities = np.exp(logits[0]) / np.exp(logits[0]).sum()
    assert ranking == pytest.approx(dict(zip(labels, probabilities, strict=True)), abs=1e-5)


def test_averaged_templates_are_those_of_the_published_classifier(clip: Encoder) -> None:
    """Compare with the weights that open_clip's own function makes from the same model."""
    import open_clip

    labels = ["cat", "dog", "fire engine"]
    expected = open_clip.build_zero_shot_classifier(clip.model, clip.tokenizer, labels, SENTENCES)
    np.testing.assert_allclose(clip.encode_labels(labels, SENTENCES), expected.T.numpy(), atol=1e-6)


def test_a_template_may_be_a_function(clip: Encoder, paths: list[str]) -> None:
    def sentence(label: str) -> str:
        return f"an {label}" if label[0] in "aeiou" else f"a {label}"

    labels = ["owl", "cat"]
    np.testing.assert_array_equal(
        clip.encode_labels(labels, sentence), clip.encode_texts(["an owl", "a cat"])
    )
    assert clip.classify(paths[0], labels, sentence)[0][0] in labels
    np.testing.assert_allclose(
        clip.encode_labels(labels, [sentence, "{}"]),
        mean_of(clip, [["an owl", "owl"], ["a cat", "cat"]]),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ([], "at least one"),
        (["a {}", "a photo"], "no {} where the label goes"),
        (lambda label: None, "NoneType for 'cat'; expected a string"),
        (lambda label: "an animal", "are the same to this model"),
    ],
    ids=["none", "without a place", "no string", "the same for all"],
)
def test_wrong_templates_are_refused(clip: Encoder, template: Any, message: str) -> None:
    with pytest.raises(errors.TextError, match=message):
        clip.encode_labels(["cat", "dog"], template)


def test_labels_may_come_as_an_array(clip: Encoder) -> None:
    labels = np.array(["cat", "dog"])
    np.testing.assert_array_equal(clip.encode_labels(labels), clip.encode_texts(["cat", "dog"]))
    np.testing.assert_array_equal(clip.encode_labels(label for label in labels), clip.encode_labels(labels))


# ------------------------------------------------------------------------------------------------- many paths


def test_arrays_of_paths_are_several_images(clip: Encoder, paths: list[str]) -> None:
    expected = clip.encode_images(paths)
    mixed = np.array([paths[0], Path(paths[1]), picture(2)], dtype=object)
    for many in (np.array(paths), np.array(paths, dtype=object), mixed):
        np.testing.assert_array_equal(clip.encode_images(many), expected)
        assert len(clip.classify(many, ["a", "b"])) == 3
    features, kept, skipped = clip.encode_images(np.array([*paths, "nowhere.png"]), on_error="skip")
    assert (len(features), kept, skipped[0].name) == (3, [0, 1, 2], "nowhere.png")


def test_a_column_of_a_table_is_several_images_or_texts(clip: Encoder, paths: list[str]) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"path": paths, "text": TEXTS}, index=["read", "b", "c"])
    np.testing.assert_array_equal(clip.encode_images(table["path"]), clip.encode_images(paths))
    np.testing.assert_array_equal(clip.encode_texts(table["text"]), clip.encode_texts(TEXTS))
    np.testing.assert_array_equal(clip.encode_labels(table["text"]), clip.encode_texts(TEXTS))


# -------------------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "fp16"])
def test_moving_keeps_the_precision(weights: Path, precision: str) -> None:
    clip = oneclip.load(weights, device="cpu", precision=precision)
    before = three(clip)
    assert clip.to("cpu") is clip
    assert (clip.precision, clip.device) == (precision, torch.device("cpu"))
    np.testing.assert_array_equal(three(clip), before)


def test_a_missing_device_is_named_and_nothing_moves(clip: Encoder) -> None:
    before = three(clip)
    with pytest.raises(errors.ConfigError, match="no device 'cuda:99' on this machine"):
        clip.to("cuda:99")
    np.testing.assert_array_equal(three(clip), before)


def test_int8_stays_on_a_cpu(weights: Path) -> None:
    clip = oneclip.load(weights, device="cpu", precision="int8")
    with pytest.raises(errors.ConfigError, match="int8 runs on a CPU, not on meta"):
        clip.to("meta")
    assert clip.device == torch.device("cpu")


def test_weights_get_the_precision_themselves_without_memory_for_a_packed_copy(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = checkpoint.load

    def load_in_little_memory(*arguments: Any, precision: str, **options: Any) -> checkpoint.LoadedModel:
        if precision == "fp32":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(*arguments, precision=precision, **options)

    monkeypatch.setattr(checkpoint, "load", load_in_little_memory)
    clip = oneclip.load(weights, device="cpu", precision="bf16")
    assert {parameter.dtype for parameter in clip.model.parameters()} == {torch.bfloat16}
    assert clip.precision == "bf16"
