"""Keras's layers as PyTorch modules: one class for each, in the module of its family in Keras's own documentation.

`core` has Dense, Embedding and Masking; `convolutional` Conv1D, Conv2D, transposed, depthwise and separable; `pooling` windowed and global
pooling; `reshaping` Flatten, Reshape, Permute, RepeatVector, padding, cropping and upsampling; `recurrent` LSTM, GRU,
SimpleRNN and Keras 2's CuDNN layers; `normalization` batch, layer, group and unit normalization; `regularization` dropout and noise; `activations`
activations as layers; `preprocessing` what may stand in front of a model; `merging` joins branches; `operations` are what
people compute between layers. `padding` computes Keras's "same", `shared` has helpers.

Arguments and defaults are Keras's, after the sizes that PyTorch needs (`in_channels`, `in_features`, a shape), which a static
method `sizes` reads off the shapes of the layer's tensors. A layer applies its activation itself, so that its output (and what
a hook sees) is what Keras calls that layer's output. Tensors are channels-first, parameters are named `weight` and `bias`.
"""

# ruff: noqa: F403
from .activations import *
from .convolutional import *
from .core import *
from .merging import *
from .normalization import *
from .operations import *
from .pooling import *
from .preprocessing import *
from .recurrent import *
from .regularization import *
from .reshaping import *
from .shared import remembering_arguments

for _value in list(vars().values()):
    if isinstance(_value, type):
        remembering_arguments(_value)
