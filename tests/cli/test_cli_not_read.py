"""Files in formats that are not read: every command counts them by suffix in one line, with what to install."""

import shutil
from pathlib import Path

import pytest
from commandline import Run
from tars import members, png, write_tar

from oneclip.cli.images import echo_not_read
from oneclip.hub import file_types
from oneclip.hub.file_types import UnsupportedFiles, image_suffixes, is_image
from oneclip.installation import install_command
from oneclip.train.data.open_dataset import open_dataset

NAMES = [
    "a.heic",
    "b.HEIC",
    "c.jxl",
    "d.cr2",
    "e.mov",
    "f.svg",
    "g.xmp",
    "h.json",
    "i.txt",
    ".j.heic",
    "k.thumbs",
]
LINE = (
    f"note: 6 files were not read: .heic 2, .jxl 1 ({install_command('heif')}), .cr2 1 ({install_command('raw')}), "
    ".mov 1 (videos), .svg 1 (render them to PNG first)\n"
)
LABELS = ("-l", "a cat", "-l", "a dog")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the extras are not installed."""
    monkeypatch.setattr(file_types, "_is_installed", lambda module: False)


@pytest.fixture
def mixed(images: Path) -> Path:
    """The eight example images among other files."""
    (images / "deeper").mkdir()
    for name in NAMES:
        (images / "deeper" / name).write_bytes(b"what")
    return images


def test_classify_counts_them(run: Run, mixed: Path, model: Path) -> None:
    code, out, err = run("classify", mixed, *LABELS, "--model", model)
    assert (code, err) == (0, LINE)
    assert len({line.split()[0] for line in out.splitlines() if line.startswith("images/")}) == 8


def test_embed_counts_them_in_folders_and_tars(run: Run, mixed: Path, model: Path) -> None:
    code, _, err = run("embed", mixed, "-o", "v.npz", "--model", model)
    assert (code, err.startswith(LINE)) == (0, True)
    tar = write_tar(Path("a.tar"), {"0.png": png(0), **{f"in/{name}": b"what" for name in NAMES}})
    code, _, err = run("embed", tar, "-o", "w.npz", "--model", model)
    assert (code, err.startswith(LINE)) == (0, True)


def test_evaluate_counts_them(run: Run, mixed: Path, model: Path) -> None:
    for name in ("cat", "sun"):
        Path("classes", name).mkdir(parents=True)
        shutil.copy(mixed / f"{name}.png", Path("classes", name))
    shutil.copytree(mixed / "deeper", Path("classes", "sun", "more"))
    code, _, err = run("evaluate", model, "--data", "classes")
    assert (code, err) == (0, LINE)


def test_training_counts_them_in_tars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = members(3) | {
        f"{name.partition('.')[0]}7.{name.rpartition('.')[2]}": b"what" for name in NAMES if name[0] != "."
    }
    samples = open_dataset(
        [str(write_tar(tmp_path / "a.tar", files)), str(write_tar(tmp_path / "b.tar", members(2)))]
    )
    assert len(samples) == 5
    echo_not_read(samples.not_read)
    assert capsys.readouterr().err == LINE


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_the_error_counts_them_if_nothing_else_is_found(
    run: Run, model: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.heic").write_bytes(b"what")
    place = tmp_path / "phone" if kind == "folder" else write_tar(tmp_path / "a.tar", {"a.heic": b"what"})
    code, _, err = run("embed", place, "-o", tmp_path / "v.npz", "--model", model)
    assert code == 1
    assert f"1 file was not read: .heic 1 ({install_command('heif')})" in err


def test_with_the_extras_they_are_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_image("a.heic")
    monkeypatch.setattr(file_types, "_is_installed", lambda module: module == "pillow_heif")
    assert is_image("folder/A.HEIC")
    assert not is_image("folder/.a.heic")
    assert not is_image("a.jxl")


def test_what_pillow_reads_is_read_or_left_out_with_a_reason() -> None:
    """Every suffix that Pillow claims: images are listed, and the rest is known not to be one."""
    from PIL import Image

    Image.init()
    claimed = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    plugins = {".heic", ".heif", ".hif", ".heics", ".heifs", ".jxl"}  # where another test registered them
    no_image_or_too_rare = {
        *(
            ".bufr",
            ".grib",
            ".h5",
            ".hdf",
            ".iim",
            ".fit",
            ".ftc",
            ".ftu",
            ".gbr",
            ".im",
            ".fli",
            ".flc",
            ".dcx",
        ),
        *(".bw", ".rgb", ".rgba", ".icb", ".vda", ".vst", ".ps", ".msp", ".pxr"),
    }
    counted = {*file_types._EXTRA_BY_SUFFIX, *file_types._REASONS}
    assert claimed - plugins - counted == (image_suffixes() & claimed) | (no_image_or_too_rare & claimed)


def test_counts_survive_a_pickle() -> None:
    import pickle

    counts = UnsupportedFiles({".heic": 2})
    again = pickle.loads(pickle.dumps(counts))
    assert (type(again), again) == (UnsupportedFiles, counts)
