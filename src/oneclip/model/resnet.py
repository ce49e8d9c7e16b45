"""ResNet image tower (Radford et al. 2021, section 2.4).

Shapes: B batch, (H, W) pixels or cells, C channels, D joint embedding.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from oneclip.config import as_pair
from oneclip.errors import ConfigError
from oneclip.model.attention import check_heads
from oneclip.model.freeze import parameters_of, unlock_last
from oneclip.model.layers import freeze_batch_norm
from oneclip.model.transformer import take_indices
from oneclip.model.vision_common import channels_of, check_images, check_output_format, check_patches


class Bottleneck(nn.Module):
    """Bottleneck block that averages instead of striding, which avoids aliasing."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        out = planes * self.expansion
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.act2 = nn.ReLU(inplace=True)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.act3 = nn.ReLU(inplace=True)
        self.stride = stride
        self.downsample: nn.Module | None = None
        if stride > 1 or inplanes != out:
            self.downsample = nn.Sequential(
                OrderedDict[str, nn.Module](
                    {
                        "-1": nn.AvgPool2d(stride),
                        "0": nn.Conv2d(inplanes, out, 1, bias=False),
                        "1": nn.BatchNorm2d(out),
                    }
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        out: Tensor = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        if self.downsample is not None:
            x = self.downsample(x)
        out += x  # in place, as published: a program that kept the output of bn3 sees the sum
        return self.act3(out)


class AttentionPool2d(nn.Module):
    """Pool a feature map by attention from its mean.

    Args:
        spacial_dim: side of the map, in cells.
        embed_dim: C, channels of the map.
        num_heads: heads.
        output_dim: D.
    """

    def __init__(
        self, spacial_dim: int, embed_dim: int, num_heads: int, output_dim: int | None = None
    ) -> None:
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.positional_embedding = nn.Parameter(torch.randn(spacial_dim**2 + 1, embed_dim) / embed_dim**0.5)
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.c_proj = nn.Linear(embed_dim, output_dim or embed_dim)
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D). The mean is the only query; queries of the cells would not be used."""
        check_patches(x.shape[2] * x.shape[3], self.positional_embedding.shape[0] - 1)
        x = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)  # (B, HW + 1, C)
        x = x + self.positional_embedding.to(x.dtype)
        # with their weights, as published: the layers themselves are never called
        q = F.linear(x[:, :1], self.q_proj.weight, self.q_proj.bias)
        k = F.linear(x, self.k_proj.weight, self.k_proj.bias)
        v = F.linear(x, self.v_proj.weight, self.v_proj.bias)
        heads = (x.shape[0], -1, self.num_heads, x.shape[2] // self.num_heads)
        q, k, v = (
            q.reshape(heads).transpose(1, 2),
            k.reshape(heads).transpose(1, 2),
            v.reshape(heads).transpose(1, 2),
        )
        x = F.scaled_dot_product_attention(q, k, v)  # (B, heads, 1, E)
        return F.linear(x.transpose(1, 2).flatten(1), self.c_proj.weight, self.c_proj.bias)


class ModifiedResNet(nn.Module):
    """ResNet with a stem of three convolutions, antialiased strides and attention pooling.

    Args:
        layers: blocks in each of the four stages.
        output_dim: D.
        heads: heads of the attention pool.
        image_size: side of the images, in pixels; (height, width) must be equal.
        width: channels after the stem.
    """

    block = Bottleneck  # the class of the residual blocks
    extra: str | None = None
    pooling = "attention"

    def __init__(
        self,
        layers: Sequence[int],
        output_dim: int,
        heads: int,
        image_size: int | tuple[int, int] = 224,
        width: int = 64,
    ) -> None:
        super().__init__()
        if len(layers) != 4:
            raise ConfigError(f"a ResNet tower has four stages; layers is {list(layers)}")
        self.output_dim = output_dim
        self.image_size = image_size
        height, side = as_pair(image_size)
        if height != side:
            raise ConfigError(f"a ResNet tower takes square images; image_size is {image_size}")
        self.side = side
        self.grid_size = (side // 32, side // 32)

        self.conv1 = nn.Conv2d(3, width // 2, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width // 2, width // 2, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width // 2, width, kernel_size=3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.act3 = nn.ReLU(inplace=True)
        self.avgpool = nn.AvgPool2d(2)

        self._inplanes = width  # channels of the next stage's input
        self.layer1 = self._make_layer(width, layers[0])
        self.layer2 = self._make_layer(width * 2, layers[1], stride=2)
        self.layer3 = self._make_layer(width * 4, layers[2], stride=2)
        self.layer4 = self._make_layer(width * 8, layers[3], stride=2)
        self.attnpool = AttentionPool2d(side // 32, width * 32, heads, output_dim)
        self.grad_checkpointing = False
        self.init_parameters()

    def _make_layer(self, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        """Make a stage of `blocks` blocks with 4 `planes` channels; the first block has the stride."""
        inner = planes * self.block.expansion
        first = self.block(self._inplanes, planes, stride)
        self._inplanes = inner
        return nn.Sequential(first, *[self.block(inner, planes) for _ in range(1, blocks)])

    def init_parameters(self) -> None:
        """Initialize each residual branch to zero, and the attention pool to unit variance."""
        std = self.attnpool.c_proj.in_features**-0.5
        for linear in (
            self.attnpool.q_proj,
            self.attnpool.k_proj,
            self.attnpool.v_proj,
            self.attnpool.c_proj,
        ):
            nn.init.normal_(linear.weight, std=std)
        for block in self.modules():
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.bn3.weight)

    def stem(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width, H / 4, W / 4)."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        x = self.act3(self.bn3(self.conv3(x)))
        return self.avgpool(x)

    def forward(self, x: Tensor) -> Tensor:
        """Encode images, (B, 3, S, S) -> (B, D), not normalized.

        Raises:
            ShapeError: if the images are not of the tower's size.
        """
        self._check_images(x)
        for stage in self._stages():
            x = self._run(stage, x)
        return self.attnpool(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NCHW",
        output_extra_tokens: bool = False,
    ) -> dict[str, Tensor | list[Tensor]]:
        """Encode images and return the feature maps of chosen stages: 0 the stem, 1 to 4 the residual stages.

        Args:
            x: (B, 3, S, S).
            indices: which stages, see `take_indices`.
            stop_early: with `intermediates_only`, compute nothing past the last stage chosen.
            normalize_intermediates: without effect, this tower has no final norm.
            intermediates_only: leave out `image_features`.
            output_fmt: "NCHW" maps (B, C, H, W), or "NLC" tokens (B, HW, C).
            output_extra_tokens: without effect, this tower has no prefix tokens.

        Returns:
            `image_intermediates`, and `image_features` (B, D) unless left out.
        """
        check_output_format(output_fmt, ("NCHW", "NLC"))
        self._check_images(x)
        stages = self._stages()
        chosen = take_indices(len(stages), indices)
        last = max(chosen) if stop_early and intermediates_only else len(stages) - 1
        kept = []
        for index, stage in enumerate(stages[: last + 1]):
            x = self._run(stage, x)
            if index in chosen:
                kept.append(x.flatten(2).transpose(1, 2) if output_fmt == "NLC" else x)
        output: dict[str, Tensor | list[Tensor]] = {"image_intermediates": kept}
        if not intermediates_only:
            output["image_features"] = self.attnpool(x)
        return output

    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the tower except its last groups: stem, four stages, attention pool (Zhai et al. 2022, LiT).

        Args:
            unlocked_groups: how many groups stay trainable, from the end.
            freeze_bn_stats: also freeze the batch norm statistics of the frozen groups.
        """
        groups: list[list[nn.Module]] = [*self._layers(), [self.attnpool]]
        unlock_last([parameters_of(group) for group in groups], unlocked_groups)
        if freeze_bn_stats:
            unlocked = groups[max(0, len(groups) - unlocked_groups) :]
            freeze_batch_norm(self, keep=[module for group in unlocked for module in group])

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Group the parameters by layer: stem, four stages; the attention pool is left out."""
        return [parameters_of(group) for group in self._layers()]

    def _layers(self) -> list[list[nn.Module]]:
        stem = [self.conv1, self.bn1, self.conv2, self.bn2, self.conv3, self.bn3]
        return [stem, [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should skip, in addition to vectors and scalars: none."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each stage in the backward pass instead of storing its activations."""
        self.grad_checkpointing = enable

    def _check_images(self, x: Tensor) -> None:
        """Raise ShapeError unless images fit the first layer and the pool, which a program may have replaced."""
        pool = self.attnpool
        cells = self.grid_size[0] * self.grid_size[1]
        as_built = isinstance(pool, AttentionPool2d) and len(pool.positional_embedding) == cells + 1
        check_images(x, (self.side, self.side) if as_built else None, channels_of(self.conv1))

    def _stages(self) -> list[Callable[[Tensor], Tensor]]:
        return [_Stem(self), self.layer1, self.layer2, self.layer3, self.layer4]

    def _run(self, stage: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not self.grad_checkpointing:
            return stage(x)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _frozen_statistics(self)

        return checkpoint(stage, x, use_reentrant=False, context_fn=contexts)


class _Stem:
    """The stem of a tower as one callable, which does not own its modules."""

    def __init__(self, tower: ModifiedResNet) -> None:
        self.tower = tower

    def __call__(self, x: Tensor) -> Tensor:
        return self.tower.stem(x)


@contextmanager
def _frozen_statistics(tower: nn.Module) -> Iterator[None]:
    """Keep the batch norm statistics unchanged during a recomputation in the backward pass."""
    norms = [m for m in tower.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]  # type: ignore[union-attr]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
