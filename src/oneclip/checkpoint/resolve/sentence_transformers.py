"""Find the CLIP in a folder that sentence-transformers wrote: `modules.json`, and a subfolder in transformers' form."""

from __future__ import annotations

import json
import re

from oneclip.checkpoint.resolve.locations import Place
from oneclip.errors import CheckpointError

MODULES = "modules.json"
LARGEST = 2**16  # bytes of it


def clip_subfolder(place: Place) -> str | None:
    """The name of the subfolder with the CLIP; None if sentence-transformers did not write this.

    Raises:
        CheckpointError: if no module is a CLIP, or `modules.json` is damaged.
    """
    path = place.first([MODULES])
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            modules = json.loads(file.read(LARGEST))
        kinds = {str(module["path"]): str(module["type"]) for module in modules}
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{path} describes no modules of sentence-transformers: {error}") from error
    found = [name for name, kind in kinds.items() if kind.endswith(".CLIPModel")]
    if not found:
        names = ", ".join(kind.rpartition(".")[2] for kind in kinds.values())
        raise CheckpointError(
            f"{path} describes a model without a CLIPModel ({names}): it encodes texts only"
        )
    if not re.fullmatch(r"\w[\w.-]*", found[0]):
        raise CheckpointError(f"{path} names the folder {found[0]!r}; a folder beside it was expected")
    return found[0]
