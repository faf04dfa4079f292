"""What the conversion knows of each kind of Keras layer: one class for each, in the module of Keras's own family.

`KINDS` has them by the names of Keras's classes. `kind` says what a kind is: settings, arrays and their layouts, the shape
of the output, a reference computation. `validators` check settings, `sliding_windows` serve convolutions and poolings. Families: `activations`,
`convolutional`, `core`, `custom`, `merging`, `normalization`, `operations`, `pooling`, `preprocessing`, `recurrent`, `regularization`, `reshaping`.
"""

# Each module registers its kinds.
from . import (  # noqa: F401
    activations,
    convolutional,
    core,
    custom,
    merging,
    normalization,
    operations,
    pooling,
    preprocessing,
    recurrent,
    regularization,
    reshaping,
)
from .kind import KINDS, Features, Kind, Settings, Shape, Spec

__all__ = ["KINDS", "Features", "Kind", "Settings", "Shape", "Spec"]
