"""The model zoo: architectures and pretrained weights as data, and how to find them by name.

The data is in JSON files in this folder, one line per entry:

- `architectures.json`: the fields of `ModelCfg` that differ from their defaults, or from the architecture named by
  `like`.
- `weights.json`: where each set of pretrained weights is published, and its preprocessing.
- `parameters.json`: the number of parameters of each architecture.
- `text_towers.json`: the configuration of each Hugging Face text tower.
- `accuracy.json`: published zero-shot accuracy on ImageNet.
"""

from oneclip.zoo.catalogue import (
    OPENAI_NAMES,
    Pretrained,
    all_pretrained,
    architecture,
    architectures,
    canonical_name,
    preprocess_of,
    pretrained,
    pretrained_tags,
    text_tower,
    text_towers,
)
from oneclip.zoo.families import FAMILIES, Family, Parameters, extras, families, family, kind, parameters
from oneclip.zoo.resolve import (
    FOLDER_PREFIX,
    HUB_PREFIX,
    POCKET,
    RECOMMENDED_FOR_PHOTOS,
    HubAddress,
    ModelSource,
    local_path,
    parse_hub_address,
    pocket_path,
    resolve,
)
from oneclip.zoo.search import CLIP_TOKENIZER, ModelInfo, all_models, list_models, search

__all__ = [
    "CLIP_TOKENIZER",
    "FAMILIES",
    "FOLDER_PREFIX",
    "HUB_PREFIX",
    "OPENAI_NAMES",
    "POCKET",
    "RECOMMENDED_FOR_PHOTOS",
    "Family",
    "HubAddress",
    "ModelInfo",
    "ModelSource",
    "Parameters",
    "Pretrained",
    "all_models",
    "all_pretrained",
    "architecture",
    "architectures",
    "canonical_name",
    "extras",
    "families",
    "family",
    "kind",
    "list_models",
    "local_path",
    "parameters",
    "parse_hub_address",
    "pocket_path",
    "preprocess_of",
    "pretrained",
    "pretrained_tags",
    "resolve",
    "search",
    "text_tower",
    "text_towers",
]
