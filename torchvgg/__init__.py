"""Keras's VGG16 and VGG19 in PyTorch: the same layers, the same names, the same numbers.

The names below are imported when they are first used, so that `import torchvgg` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import vgg16, vgg19
    from .extraction import extract_features
    from .gradcam import grad_cam
    from .imagenet import decode_predictions, preprocess_input
    from .images import load_image
    from .inference import optimize_for_inference
    from .loading import load_model
    from .vgg16 import VGG16
    from .vgg19 import VGG19

__version__ = "0.1.0"
__all__ = [
    "VGG16",
    "VGG19",
    "decode_predictions",
    "extract_features",
    "grad_cam",
    "load_image",
    "load_model",
    "optimize_for_inference",
    "preprocess_input",
    "vgg16",
    "vgg19",
]

_HOME = {
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "decode_predictions": "imagenet",
    "extract_features": "extraction",
    "grad_cam": "gradcam",
    "load_image": "images",
    "load_model": "loading",
    "optimize_for_inference": "inference",
    "preprocess_input": "imagenet",
}


def __getattr__(name: str) -> Any:
    if name in ("vgg16", "vgg19"):
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
