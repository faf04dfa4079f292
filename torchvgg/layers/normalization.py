"""Batch, layer, group and unit normalization, and Keras's running statistics."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import channel_axis
from .shared import Config, Shapes, along_channels, torch_axis

__all__ = ["BatchNormalization", "GroupNormalization", "LayerNormalization", "UnitNormalization"]


class BatchNormalization(nn.Module):
    """`keras.layers.BatchNormalization` over the channels: gamma is `weight`, beta `bias`.

    In training each channel is normalized by the batch's mean and variance, and `running_mean` and `running_var` move
    towards them by `1 - momentum`; the variance is the batch's own, as in Keras, not PyTorch's unbiased estimate. When frozen
    (`requires_grad_(False)`), the layer normalizes by the running statistics in training too, as in Keras.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
    ) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.trainable = True  # matters only without center and scale: there is no parameter to freeze
        self.weight = nn.Parameter(torch.ones(num_features)) if scale else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if center else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"num_features": shapes["running_mean"][0]}

    def extra_repr(self) -> str:
        return f"{len(self.running_mean)}, momentum={self.momentum}, epsilon={self.epsilon}"

    def requires_grad_(self, requires_grad: bool = True) -> "BatchNormalization":
        self.trainable = requires_grad
        super().requires_grad_(requires_grad)
        return self

    def _is_trained(self) -> bool:
        parameters = list(self.parameters())
        return self.training and (any(p.requires_grad for p in parameters) if parameters else self.trainable)

    def forward(self, x: Tensor) -> Tensor:
        samples = x.flatten(0, 1) if x.dim() in (3, 5) else x  # each step of a sequence is one
        return self._normalized(samples).reshape(x.shape)

    def _normalized(self, x: Tensor) -> Tensor:
        if not self._is_trained():
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.epsilon)
        if not x.numel():
            raise ValueError(f"expected at least one image in training. Received shape: {tuple(x.shape)}")
        axes = [0, *range(2, x.dim())]
        with torch.no_grad():
            variance, mean = torch.var_mean(x, axes, correction=0)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), 1 - self.momentum)
            self.running_var.lerp_(variance.to(self.running_var.dtype), 1 - self.momentum)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.epsilon)


class LayerNormalization(nn.Module):
    """`keras.layers.LayerNormalization` over the channels at each place (`axis` -1), or over the whole image (`(1, 2, 3)`).

    `shape` is that of gamma, `weight`, and of beta, `bias`: `(C,)`, or `(C, H, W)` over the whole image. `scale` and `center`
    say whether the layer has them; `epsilon` is added to the variance.
    """

    def __init__(
        self,
        shape: Sequence[int],
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(tuple(shape))) if scale else None
        self.bias = nn.Parameter(torch.zeros(tuple(shape))) if center else None

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"shape": next(iter(shapes.values()), ())}  # gamma's or beta's: they are alike

    def extra_repr(self) -> str:
        return f"axis={self.axis}, epsilon={self.epsilon}"

    def forward(self, x: Tensor) -> Tensor:
        axes = channel_axis(x) if self.axis == -1 else (1, 2, 3)
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + self.epsilon)
        x = x if self.weight is None else x * along_channels(self.weight, x)
        return x if self.bias is None else x + along_channels(self.bias, x)


class GroupNormalization(nn.Module):
    """`keras.layers.GroupNormalization`: normalizes each group of channels over all places (and times), any shape → the same.

    Gamma is `weight`, beta `bias`, both `(C,)`; `scale` and `center` say whether the layer has them. With `groups` -1, each
    channel is a group.
    """

    def __init__(
        self, channels: int | None, groups: int = 32, epsilon: float = 1e-3, center: bool = True, scale: bool = True
    ) -> None:
        super().__init__()
        self.groups = groups
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels or 0)) if scale else None
        self.bias = nn.Parameter(torch.zeros(channels or 0)) if center else None

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"channels": next((shape[0] for shape in shapes.values()), None)}  # gamma's or beta's: they are alike

    def extra_repr(self) -> str:
        return f"groups={self.groups}, epsilon={self.epsilon}"

    def forward(self, x: Tensor) -> Tensor:
        axis = channel_axis(x)
        groups = x.shape[axis] if self.groups == -1 else self.groups
        # F.group_norm does the same, but refuses groups of one number, which are zero.
        y = torch.group_norm(x.movedim(axis, 1), groups, self.weight, self.bias, self.epsilon)
        return y.movedim(1, axis)


class UnitNormalization(nn.Module):
    """`keras.layers.UnitNormalization`: divides by the L2 norm over `axis`, one or several of Keras's axes, any shape → the same.

    A norm below `epsilon` counts as that: 1e-12 in Keras 3, 1e-6 in Keras 2.
    """

    def __init__(self, axis: int | Sequence[int] = -1, epsilon: float = 1e-12) -> None:
        super().__init__()
        self.axis = axis
        self.epsilon = epsilon

    def extra_repr(self) -> str:
        return f"axis={self.axis}"

    def forward(self, x: Tensor) -> Tensor:
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        wide = torch.promote_types(x.dtype, torch.float32)  # of which epsilon is a number
        norm = torch.linalg.vector_norm(x, 2, [torch_axis(axis, x.dim()) for axis in axes], keepdim=True, dtype=wide)
        return (x / norm.clamp_min(self.epsilon)).to(x.dtype)
