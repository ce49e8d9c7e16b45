"""`oneclip caption`: the captions that `Encoder.caption` writes, as a table or JSON."""

import json
from pathlib import Path

import pytest
from commandline import Run
from tiny import write_tiny_coca

import oneclip


@pytest.fixture(scope="module")
def coca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coca(tmp_path_factory.mktemp("coca") / "coca")


def test_captions_are_those_of_the_encoder(run: Run, coca: Path, images: Path) -> None:
    code, out, err = run("caption", images, "-m", coca, "--max-tokens", "9", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    paths = sorted(map(str, images.glob("*.png")))
    assert [each["path"] for each in answer["images"]] == paths
    captions = oneclip.load(coca, device="cpu").caption(paths, seq_len=9)
    assert [each["caption"] for each in answer["images"]] == captions
    table = run("caption", images, "-m", coca, "--max-tokens", "9").out
    assert paths[0] in table


def test_one_beam_takes_the_likeliest_token(run: Run, coca: Path, images: Path) -> None:
    image = images / "cat.png"
    out = run(
        "caption", image, "-m", coca, "--max-tokens", "9", "--beams", "1", "--prompt", "a", "--json"
    ).out
    greedy = oneclip.load(coca, device="cpu").caption(
        image, prompt="a", seq_len=9, generation_type="top_k", top_k=1
    )
    assert json.loads(out)["images"][0]["caption"] == greedy


def test_a_broken_image_costs_only_itself(run: Run, coca: Path, images: Path) -> None:
    (images / "broken.png").write_bytes(b"not an image")
    code, out, err = run("caption", images, "-m", coca, "--max-tokens", "6", "--json")
    assert code == 1
    assert len(json.loads(out)["images"]) == 8
    assert err.startswith("cannot read ")
    assert "broken.png" in err
    assert run("caption", images, "-m", coca, "--max-tokens", "6", "--skip").code == 3


def test_a_model_without_a_decoder_names_one_that_has_it(run: Run, model: Path, images: Path) -> None:
    code, _, err = run("caption", images, "-m", model)
    assert code == 1
    assert "coca_ViT-L-14:mscoco_finetuned_laion2b_s13b_b90k" in err
