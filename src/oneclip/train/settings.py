"""What a run is told: `RunCfg`, and one flat table of settings that files and command lines share.

The settings of a run are the fields of `RunCfg` and those of `TrainCfg`; a name that both have is `RunCfg`'s.
Nothing here needs torch.
"""

# ruff: noqa: RUF009 (`_in` makes fields; none of them is shared)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from oneclip.config import _Config
from oneclip.errors import ConfigError, nearest
from oneclip.train.config import TrainCfg

GROUPS = ("Data", "Model", "Length", "Training", "The run")
PREFLIGHT = ("on", "off", "only")
DERIVED = ("steps_per_epoch",)  # of TrainCfg: what the data says, so nothing to set
NOTHING = "none"  # how files and command lines write None
EPOCHS = 10


def _in(group: str, default: Any = MISSING, *, help: str, unit: str = "", short: tuple[str, ...] = ()) -> Any:
    """A field with what an option of the command line wants: its group, unit and shorter names."""
    metadata = {"help": help, "group": group, "unit": unit, "short": short}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunCfg(_Config):
    """One training. `train` has what `Trainer` takes, by the names of `TrainCfg`; the rest is here.

    Raises:
        ConfigError: on a value out of its range, or an unknown name in `train`.
    """

    data: str | Path | tuple[str, ...] = _in("Data", help="Pairs of pictures and captions.", unit="TABLE")
    out: str | Path = _in("The run", help="Where all goes.", unit="FOLDER", short=("-o",))

    images: str | Path | None = _in(
        "Data", None, help="What paths are relative to. [default: the table's folder]", unit="FOLDER"
    )
    image_column: str = _in("Data", "filepath", help="Column of picture paths.", unit="NAME")
    caption_column: str = _in("Data", "caption", help="Column of captions.", unit="NAME")
    separator: str | None = _in(
        "Data", None, help="Between CSV columns; tab for tabs. [default: found out]", unit="CHAR"
    )
    skip_missing: bool = _in(
        "Data", False, help="Leave out pictures that are missing; otherwise an error.", short=("--skip",)
    )
    max_pixels: int | None = _in("Data", None, help="Skip larger pictures. [default: 178956970]", unit="N")
    threads: int = _in("Data", 4, help="That read pictures.", unit="N")
    eval_data: str | Path | None = _in("Data", None, help="Held-out pairs, to evaluate on.", unit="TABLE")
    eval_images: str | Path | None = _in(
        "Data", None, help="For the held-out pairs. [default: images, or the table's folder]", unit="FOLDER"
    )

    model: str | Path | None = _in(
        "Model",
        None,
        help="An architecture, or a JSON file that describes one.",
        unit="NAME",
        short=("-m",),
    )
    pretrained: str | Path | None = _in(
        "Model",
        None,
        help="Weights to start from: a tag or file of the architecture, or any model's name.",
        unit="NAME",
    )

    epochs: int | None = _in("Length", None, help=f"Times through the data. [default: {EPOCHS}]", unit="N")
    steps: int | None = _in("Length", None, help="Optimizer steps, instead of epochs.", unit="N")
    batch_size: int = _in("Length", 64, help="Pairs a batch, over all processes.", unit="N")
    warmup: int | None = _in("Length", None, help="Steps of linear rise. [default: a tenth]", unit="N")
    evaluate_every: int | None = _in(
        "Length",
        None,
        help="Steps between evaluations. [default: an epoch]",
        unit="N",
        short=("--eval-every",),
    )

    resume: str | Path | None = _in(
        "The run",
        None,
        help="Go on from the latest checkpoint in the folder, or from one.",
        unit="auto|PATH",
    )
    preflight: str = _in("The run", "on", help="Checks before the first step.", unit="|".join(PREFLIGHT))
    device: str | None = _in(
        "The run", None, help="cpu, cuda, cuda:1 … [default: a GPU if there is one]", unit="DEVICE"
    )
    tensorboard: bool = _in("The run", True, help="Events for TensorBoard, if it is installed.")
    wandb: str | None = _in(
        "The run", None, help="Report to this project of Weights & Biases.", unit="PROJECT"
    )

    train: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size", "threads", "max_pixels"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        for name in ("warmup", "evaluate_every"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 0, "0 or more")
        self._require("preflight", self.preflight in PREFLIGHT, ", ".join(PREFLIGHT))
        self._require("separator", len(self.delimiter or " ") == 1, "one character, or tab")
        self._require("data", bool(self.sources) and all(self.sources), "at least one table")
        if self.epochs is not None and self.steps is not None:
            raise ConfigError(
                f"epochs is {self.epochs} and steps is {self.steps}: both say how long the training is. "
                "Leave one of them out"
            )
        TrainCfg.from_dict({"steps": 1, **self.train})

    @property
    def sources(self) -> tuple[str, ...]:
        """What `data` names, one or more."""
        return self.data if isinstance(self.data, tuple) else (str(self.data),)

    @property
    def delimiter(self) -> str | None:
        """`separator`, with its words turned into what they mean."""
        return "\t" if self.separator in ("tab", "\\t") else self.separator

    @property
    def folder(self) -> Path:
        """`out`."""
        return Path(self.out)

    @property
    def seed(self) -> int:
        """Of weights, order and augmentation."""
        return int(self.train.get("seed", 0))

    def train_cfg(self, steps_per_epoch: int) -> TrainCfg:
        """The trainer's settings.

        Args:
            steps_per_epoch: of the data.
        """
        steps = self.steps if self.steps is not None else (self.epochs or EPOCHS) * steps_per_epoch
        counted = {
            "steps": steps,
            "steps_per_epoch": steps_per_epoch,
            "warmup": self.warmup if self.warmup is not None else steps // 10,
            "evaluate_every": self.evaluate_every if self.evaluate_every is not None else steps_per_epoch,
        }
        return TrainCfg.from_dict(counted | dict(self.train))

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> RunCfg:
        """A run from one table of settings, as a file or a command line has them; "none" stands for None.

        Raises:
            ConfigError: on an unknown name, one that is needed and missing, or a value that does not fit.
        """
        known = {setting.name: setting for setting in settings()}
        for name in values:
            if name not in known:
                raise ConfigError(unknown(name))
        values = {
            name: None if known[name].is_optional and value == NOTHING else value
            for name, value in values.items()
        }
        own = {f.name for f in fields(cls)}
        train = {name: value for name, value in values.items() if name not in own}
        return cls.from_dict(
            {name: value for name, value in values.items() if name in own} | {"train": train}
        )

    def to_flat(self) -> dict[str, Any]:
        """All settings that have a value, by name; `from_flat` makes the same run of them."""
        train = TrainCfg.from_dict({"steps": 1, **self.train})
        own = {f.name for f in fields(self)}
        values = {s.name: getattr(self if s.name in own else train, s.name) for s in settings()}
        return {
            name: NOTHING if value is None else value
            for name, value in values.items()
            if value is not None or name in self.train
        }

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")


class Setting(NamedTuple):
    """One setting of a run.

    Attributes:
        name: as files have it; options of the command line have `-` for `_`.
        kind: bool, int, float or str; what None may stand for besides is said by `is_optional`.
        default: `dataclasses.MISSING` if it must be given.
        help: a sentence.
        group: what it belongs to, one of `GROUPS`.
        unit: what its value is called in help.
        short: other names of its option.
        is_optional: whether None is a value.
        is_list: whether there may be several.
    """

    name: str
    kind: type
    default: Any
    help: str
    group: str
    unit: str
    short: tuple[str, ...]
    is_optional: bool
    is_list: bool

    @property
    def explained(self) -> str:
        """The help, with the default where it does not say it itself."""
        says_nothing = self.default in (MISSING, None) or self.kind is bool
        return (
            self.help if says_nothing or "[default" in self.help else f"{self.help} [default: {self.default}]"
        )


def settings() -> list[Setting]:
    """All settings of a run, in the order of their groups."""
    own = [_setting(RunCfg, f) for f in fields(RunCfg) if f.name != "train"]
    names = {*DERIVED, *(setting.name for setting in own)}
    theirs = [_setting(TrainCfg, f) for f in fields(TrainCfg) if f.name not in names]
    return sorted(own + theirs, key=lambda setting: GROUPS.index(setting.group))


def unknown(name: str) -> str:
    """What to say of a name that is no setting."""
    names = [setting.name for setting in settings()]
    near = nearest(name, names)
    hint = f"did you mean {' or '.join(near)}?" if near else "`oneclip train --help` lists them"
    return f"there is no setting {name!r}; {hint}"


def _setting(cfg: Any, f: Any) -> Setting:
    hint = get_type_hints(cfg)[f.name]
    parts = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    kinds = [part for part in parts if part in (bool, int, float, str)]
    kind: type = kinds[0]
    metadata = f.metadata
    return Setting(
        f.name,
        kind,
        f.default,
        metadata["help"],
        metadata.get("group", "Training"),
        metadata.get("unit") or {int: "N", float: "X", str: "NAME"}.get(kind, ""),
        metadata.get("short", ()),
        type(None) in parts,
        any(get_origin(part) is tuple for part in parts),
    )
