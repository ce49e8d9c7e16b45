"""Description of an exported folder (`oneclip.json`), and the check of its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.hub.json_file import read_json

DESCRIPTION = "oneclip.json"
FORMAT = 1
"""Version of the description; a folder with a higher one needs a newer oneclip."""

Side = Literal["image", "text"]


@dataclass(frozen=True)
class Tower:
    """Files of one tower in one precision.

    Attributes:
        runtime: "onnx" or "openvino".
        file: name of the file that the runtime opens.
        inputs: names of the inputs: pixels, or token ids and, for some towers, the attention mask.
        output: name of the output, embeddings (B, D).
        files: size in bytes and SHA-256 of each file of the tower, by name; an empty SHA-256 is not checked.
    """

    runtime: str
    file: str
    inputs: tuple[str, ...]
    output: str
    files: Mapping[str, tuple[int, str]]


@dataclass(frozen=True)
class ExportedModel:
    """Model in an exported folder.

    Attributes:
        folder: that contains it.
        name: of the model.
        cfg: configuration of the model that was exported.
        preprocess_cfg: preprocessing of its images.
        embed_dim: D.
        context_length: greatest number of tokens of a text.
        logit_scale, logit_bias: see `oneclip.Encoder`.
        weights: digest of the weights that were exported, see `Encoder.weights_digest`; empty if it is unknown.
        dynamic_text_length: whether texts may be shorter than `context_length`.
        uint8_input: whether the image tower takes bytes and normalizes them itself.
        is_normalized: whether the outputs have unit length.
        towers: by side, "image" and "text", and precision.
    """

    folder: Path
    name: str
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    embed_dim: int
    context_length: int
    logit_scale: float
    logit_bias: float | None
    weights: str
    dynamic_text_length: bool
    uint8_input: bool
    is_normalized: bool
    towers: Mapping[Side, Mapping[str, Tower]]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> ExportedModel:
        """Read the description of an exported folder and check that its files are there with their sizes.

        Raises:
            CheckpointError: if the description is damaged or of a newer version, or a file is missing or changed.
        """
        path = Path(folder).expanduser()
        values = read_json(path / DESCRIPTION)
        version = values.get("format")
        if not isinstance(version, int) or version < 1:
            raise CheckpointError(f"{path / DESCRIPTION} has the format {version!r}; expected {FORMAT}")
        if version > FORMAT:
            raise CheckpointError(
                f"{path} has format {version}, and this version of oneclip reads up to {FORMAT}; update oneclip, or "
                "export the model again with this version"
            )
        try:
            model = cls(
                folder=path,
                name=str(values["name"]),
                cfg=ModelCfg.from_dict(values["model"]),
                preprocess_cfg=PreprocessCfg.from_dict(values["preprocess"]),
                embed_dim=int(values["embed_dim"]),
                context_length=int(values["context_length"]),
                logit_scale=float(values["logit_scale"]),
                logit_bias=None if values["logit_bias"] is None else float(values["logit_bias"]),
                weights=str(values["weights"]),
                dynamic_text_length=bool(values["dynamic_text_length"]),
                uint8_input=bool(values["uint8_input"]),
                is_normalized=True,
                towers={
                    "image": _read_towers(values["towers"]["image"]),
                    "text": _read_towers(values["towers"]["text"]),
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise CheckpointError(
                f"{path / DESCRIPTION} is damaged ({type(error).__name__}: {error}); export the model again"
            ) from error
        model.check_sizes()
        return model

    def check_sizes(self) -> None:
        """Raise CheckpointError if a file is missing or has another size."""
        for precisions in self.towers.values():
            for tower in precisions.values():
                for name, (size, _) in tower.files.items():
                    file = self.folder / name
                    if not file.is_file():
                        raise CheckpointError(
                            f"{self.folder} is incomplete: {name} is missing; copy the whole folder again, or export "
                            "the model again"
                        )
                    if file.stat().st_size != size:
                        raise CheckpointError(
                            f"{file} was changed: it has {file.stat().st_size:,} bytes, not {size:,}; copy the whole "
                            "folder again, or export the model again"
                        )

    def check_contents(self, tower: Tower) -> None:
        """Compare the files of a tower with their checksums.

        Raises:
            CheckpointError: if one differs.
        """
        for name, (_, expected) in tower.files.items():
            if not expected:
                continue
            with (self.folder / name).open("rb") as file:
                found = _digest(file)
            if found != expected:
                raise CheckpointError(
                    f"{self.folder / name} was changed: its SHA-256 is {found[:12]}…, not {expected[:12]}…; copy the "
                    "whole folder again, or export the model again"
                )

    def select(self, side: Side, precision: str) -> Tower:
        """Return a tower in a precision.

        Raises:
            ConfigError: if the folder has no such precision.
        """
        found = self.towers[side]
        if precision not in found:
            raise ConfigError(
                f"{self.folder} has the {side} tower in {', '.join(found)}, not in {precision!r}; choose one of these, "
                f"or export it: oneclip export MODEL OUT --precision {precision}"
            )
        return found[precision]

    @property
    def precisions(self) -> list[str]:
        """Precisions that both towers have, in the order of the description."""
        return [name for name in self.towers["image"] if name in self.towers["text"]]


def is_exported(path: object) -> bool:
    """Return whether this is the path of a folder that contains an exported model."""
    return isinstance(path, (str, os.PathLike)) and os.path.isfile(
        os.path.join(os.path.expanduser(os.fspath(path)), DESCRIPTION)
    )


def _read_towers(values: Mapping[str, Any]) -> dict[str, Tower]:
    towers = {}
    for precision, one in values.items():
        files = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in one["files"].items()}
        for name in (*files, one["file"]):
            if os.path.isabs(name) or ".." in Path(name).parts:
                raise ValueError(f"the file {name!r} is outside of the folder")
        inputs = tuple(map(str, one["inputs"]))
        towers[str(precision)] = Tower(
            str(one["runtime"]), str(one["file"]), inputs, str(one["output"]), files
        )
    return towers


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()
