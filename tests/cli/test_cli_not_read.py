"""What lies among the images and is not read: counted by suffix, with what to install, in one line of every command."""

import shutil
from pathlib import Path

import pytest
from commandline import Run
from tars import members, png, write_tar

from oneclip.cli.images import tell_not_read
from oneclip.hub import file_types
from oneclip.hub.file_types import NotRead, image_suffixes, is_image
from oneclip.train.data.open_dataset import open_samples

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
    "note: 6 files were not read: .heic 2, .jxl 1 (pip install 'oneclip[heif]'), .cr2 1 (pip install 'oneclip[raw]'), "
    ".mov 1 (videos), .svg 1 (render them to PNG first)\n"
)
LABELS = ("-l", "a cat", "-l", "a dog")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without the extras."""
    monkeypatch.setattr(file_types, "_is_installed", lambda module: False)


@pytest.fixture
def mixed(pictures: Path) -> Path:
    """The eight example pictures among other files."""
    (pictures / "deeper").mkdir()
    for name in NAMES:
        (pictures / "deeper" / name).write_bytes(b"what")
    return pictures


def test_classify_says_so(run: Run, mixed: Path, model: Path) -> None:
    code, out, err = run("classify", mixed, *LABELS, "--model", model)
    assert (code, err) == (0, LINE)
    assert len({line.split()[0] for line in out.splitlines() if line.startswith("pictures/")}) == 8


def test_embed_says_so_of_folders_and_of_tars(run: Run, mixed: Path, model: Path) -> None:
    code, _, err = run("embed", mixed, "-o", "v.npz", "--model", model)
    assert (code, err.startswith(LINE)) == (0, True)
    tar = write_tar(Path("a.tar"), {"0.png": png(0), **{f"in/{name}": b"what" for name in NAMES}})
    code, _, err = run("embed", tar, "-o", "w.npz", "--model", model)
    assert (code, err.startswith(LINE)) == (0, True)


def test_evaluate_says_so(run: Run, mixed: Path, model: Path) -> None:
    for name in ("cat", "sun"):
        Path("classes", name).mkdir(parents=True)
        shutil.copy(mixed / f"{name}.png", Path("classes", name))
    shutil.copytree(mixed / "deeper", Path("classes", "sun", "more"))
    code, _, err = run("evaluate", model, "--data", "classes")
    assert (code, err) == (0, LINE)


def test_training_says_so_of_tars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = members(3) | {
        f"{name.partition('.')[0]}7.{name.rpartition('.')[2]}": b"what" for name in NAMES if name[0] != "."
    }
    samples = open_samples(
        [str(write_tar(tmp_path / "a.tar", files)), str(write_tar(tmp_path / "b.tar", members(2)))]
    )
    assert len(samples) == 5
    tell_not_read(samples.not_read)
    assert capsys.readouterr().err == LINE


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_where_nothing_else_is_there_the_error_says_it(
    run: Run, model: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.heic").write_bytes(b"what")
    place = tmp_path / "phone" if kind == "folder" else write_tar(tmp_path / "a.tar", {"a.heic": b"what"})
    code, _, err = run("embed", place, "-o", tmp_path / "v.npz", "--model", model)
    assert code == 1
    assert "1 file was not read: .heic 1 (pip install 'oneclip[heif]')" in err


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
    told = set(file_types._REMEDIES)
    assert claimed - plugins - told == (image_suffixes() & claimed) | (no_image_or_too_rare & claimed)


def test_counts_survive_a_pickle() -> None:
    import pickle

    counts = NotRead({".heic": 2})
    again = pickle.loads(pickle.dumps(counts))
    assert (type(again), again) == (NotRead, counts)
