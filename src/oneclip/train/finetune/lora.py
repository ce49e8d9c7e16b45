"""LoRA adapters (Hu et al. 2022), made, saved and loaded by peft.

Every linear layer and convolution gets an adapter. So does the fused projection of queries, keys and values, which is
a parameter and not a layer; peft adapts it through `target_parameters`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oneclip import checkpoint
from oneclip.errors import ConfigError, OutputError
from oneclip.hub.atomic import replace_file
from oneclip.model.layers import freeze_batch_norm
from oneclip.model.optional_package import optional_package

FUSED = "in_proj_weight"
ADAPTER = "default"  # peft's name of a single adapter
PREFIX = "base_model.model."  # of tensor names in peft's files


class Lora:
    """LoRA adapters, added to a model in place. Everything else is frozen, including batch norm statistics.

    Args:
        model: its outputs do not change.
        rank: rank of the adapter matrices.
        alpha: changes are multiplied by alpha / rank; None: twice the rank.
        seed: seed of the first matrices; the second ones start at zero.
        name: name of the model, for peft's file.

    Raises:
        MissingExtraError: without peft.
        ConfigError: if the model has no layer to adapt.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rank: int = 8,
        alpha: float | None = None,
        seed: int = 0,
        name: str | Path | None = None,
    ) -> None:
        self._peft: Any = optional_package("peft", "LoRA", "train")
        layers = [path for path, module in model.named_modules() if _is_adaptable(module)]
        fused = [path for path, _ in model.named_parameters() if path.rpartition(".")[2] == FUSED]
        if not layers and not fused:
            raise ConfigError(
                f"{type(model).__name__} has no linear layer for LoRA to adapt; choose another method"
            )
        self.model = model
        self.cfg: Any = self._peft.LoraConfig(
            r=rank,
            lora_alpha=alpha if alpha is not None else 2 * rank,
            target_modules=layers or None,
            target_parameters=fused or None,
            base_model_name_or_path=str(name) if name is not None else None,
        )
        freeze_batch_norm(model)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._peft.inject_adapter_in_model(self.cfg, model)

    def merged_weights(
        self, state_dict: Mapping[str, Tensor], before: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Merge trained adapters into the weights of the model before."""
        checkpoint.load_into(self.model, state_dict, source="the trained adapters")
        merged = dict(before)
        for name, change in self._changes().items():
            merged[name] = (before[name].float() + change.to(before[name].device)).to(before[name].dtype)
        return merged

    @torch.no_grad()
    def write(self, folder: Path, alpha: float) -> Path:
        """Write the adapters in peft's format, for `PeftModel.from_pretrained(model, folder)`.

        Args:
            folder: output folder.
            alpha: factor of the changes.

        Raises:
            OutputError: if it cannot be written.
        """
        tensors = self._peft.get_peft_model_state_dict(self.model, save_embedding_layers=False)
        settings = {
            key: sorted(value) if isinstance(value, set) else value
            for key, value in self.cfg.to_dict().items()
        }
        settings |= {"lora_alpha": self.cfg.lora_alpha * alpha, "inference_mode": True}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint.save(
                folder / "adapter_model.safetensors", {PREFIX + name: t for name, t in tensors.items()}
            )
            text = json.dumps(settings, indent=2, sort_keys=True, default=str)
            with replace_file(folder / "adapter_config.json") as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"{folder} could not be written: {error.strerror}") from error
        return folder

    @torch.no_grad()
    def _changes(self) -> dict[str, Tensor]:
        """Return what each adapter adds to its parameter, by the names of the model without adapters."""
        changes = {}
        for path, module in self.model.named_modules():
            delta = getattr(module, "get_delta_weight", None)
            if delta is None:
                continue
            parameter = getattr(module, "parameter_name", "weight")
            name = f"{path}.{parameter}".replace(".base_layer", "")
            changes[name] = delta(ADAPTER).float()
        return changes


def _is_adaptable(module: nn.Module) -> bool:
    """Return True for linear layers and ungrouped convolutions (for others, groups would have to divide the rank)."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
