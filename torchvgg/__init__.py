"""Keras's VGG16 and VGG19 in PyTorch: the same layers, the same names, the same numbers.

`vgg16` and `vgg19` are the networks, built by `vgg` out of `layers` and `activations`; each is a `model`, whose `summary` is
Keras's. `weights` finds and assigns their weights, `loading` builds models from files, `saving` writes them, which `describing` describes in Keras's layers (`pytorch_layers`
has those of PyTorch's own), `own_modules` loads weights into any module. `imagenet` has ImageNet's preprocessing
and labels. `inference` makes a model fast; `extraction` writes feature vectors of many images. `image_files` reads image files,
`predicting` names what is on them, `gradcam` shows where a network looks, `plots` draws that. `command_line` parses
options, `commands` runs them; `optional_imports` names missing optional packages. `convert` converts weights.

The names in `__all__` are imported when first used, so that `import torchvgg` costs little.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import vgg16, vgg19
    from .extraction import extract_features
    from .gradcam import grad_cam
    from .image_files import load_image
    from .imagenet import decode_predictions, preprocess_input
    from .inference import optimize_for_inference
    from .loading import load_model
    from .own_modules import load_keras_weights
    from .saving import save_model
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
    "load_keras_weights",
    "load_model",
    "optimize_for_inference",
    "preprocess_input",
    "save_model",
    "vgg16",
    "vgg19",
]

_HOME = {
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "decode_predictions": "imagenet",
    "extract_features": "extraction",
    "grad_cam": "gradcam",
    "load_image": "image_files",
    "load_keras_weights": "own_modules",
    "load_model": "loading",
    "optimize_for_inference": "inference",
    "preprocess_input": "imagenet",
    "save_model": "saving",
}


def __getattr__(name: str) -> Any:
    if name in ("vgg16", "vgg19"):
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
