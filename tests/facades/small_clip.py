"""Small models in OpenAI's format, and their files."""

from pathlib import Path

import torch
from torch import Tensor, nn

from clip.model import CLIP

VIT = (32, 32, 2, 64, 16, 77, 49408, 64, 1, 2)  # OpenAI's ten arguments, with the full vocabulary
RESNET = (32, 64, (1, 1, 1, 1), 64, None, 77, 49408, 64, 1, 2)
MODELS = {"vit": VIT, "resnet": RESNET}


def random_model(arguments: tuple = VIT) -> CLIP:
    torch.manual_seed(0)
    model = CLIP(*arguments).eval()
    for module in model.modules():
        if isinstance(
            module, nn.BatchNorm2d
        ):  # the initial weights disable the residual branches of a ResNet
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def save_state_dict(path: Path, arguments: tuple = VIT) -> CLIP:
    model = random_model(arguments)
    torch.save(model.state_dict(), path)
    return model


def random_model_in_half(arguments: tuple = VIT) -> CLIP:
    """Make a random model whose weights are exact in fp16."""
    model = random_model(arguments)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model


class Published(nn.Module):
    """Archive in OpenAI's format: weights by name, code that is never run, and three numbers as buffers."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        numbers = {
            "input_resolution": model.visual.input_resolution,
            "context_length": 77,
            "vocab_size": 49408,
        }
        for name, tensor in {
            **model.state_dict(),
            **{k: torch.tensor(v) for k, v in numbers.items()},
        }.items():
            *parents, last = name.split(".")
            module: nn.Module = self
            for parent in parents:
                if not hasattr(module, parent):
                    module.add_module(parent, nn.Module())
                module = getattr(module, parent)
            if tensor.is_floating_point():
                module.register_parameter(last, nn.Parameter(tensor.half() if tensor.ndim > 1 else tensor))
            else:
                module.register_buffer(last, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def save_archive(path: Path, arguments: tuple = VIT) -> CLIP:
    model = random_model_in_half(arguments)
    torch.jit.save(torch.jit.trace(Published(model), torch.ones(1)), str(path))
    return model
