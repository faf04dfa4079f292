"""Keras's layers as PyTorch modules: one class for each, under Keras's name, in the module of Keras's own family.

A layer's activation is part of it, so that what it returns (and what a hook sees) is what Keras calls that layer's output.
Tensors are channels-first, `(N, C, H, W)`; parameters have PyTorch's names, `weight` and `bias`. The arguments are Keras's,
with Keras's defaults, after the sizes that PyTorch needs (`in_channels`, `in_features`, a shape).
"""

from .activations import ELU, Activation, LeakyReLU, PReLU, ReLU, Softmax
from .convolutional import Conv2D
from .core import Dense
from .normalization import BatchNormalization, LayerNormalization
from .pooling import AveragePooling2D, GlobalAveragePooling2D, GlobalMaxPooling2D, MaxPooling2D
from .preprocessing import Normalization, PreprocessInput, Rescaling
from .regularization import AlphaDropout, Dropout, GaussianDropout, GaussianNoise, SpatialDropout2D
from .reshaping import Flatten, Reshape, ZeroPadding2D

__all__ = [
    "ELU",
    "Activation",
    "AlphaDropout",
    "AveragePooling2D",
    "BatchNormalization",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "LayerNormalization",
    "LeakyReLU",
    "MaxPooling2D",
    "Normalization",
    "PReLU",
    "PreprocessInput",
    "ReLU",
    "Rescaling",
    "Reshape",
    "Softmax",
    "SpatialDropout2D",
    "ZeroPadding2D",
]
