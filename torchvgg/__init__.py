"""Keras's VGG16 and VGG19 in PyTorch: the same layers, the same names, the same numbers.

`vgg16` and `vgg19` are the networks, built by `vgg` out of `layers` and `activations`; each is a `model`, whose `summary` is
Keras's. `weights` finds and assigns their weights, `loading` builds models from files, `saving` writes them, which `describing` describes in Keras's layers (`pytorch_layers`
has those of PyTorch's own), `own_modules` loads weights into any module,
`torchvision_models` takes torchvision's and timm's. `imagenet` has ImageNet's preprocessing
and labels. `inference` makes a model fast; `extraction` writes feature vectors of many images. `evaluation` measures accuracy on
`labelled_images`. `image_files` reads image files, within `image_limits`,
`predicting` names what is on them, `dense_evaluation` scores every place of a large image, `gradcam` shows where a network looks, `plots` draws that. `command_line` parses
options, `commands` runs them; `optional_imports` names missing optional packages, and makes bars of tqdm. `convert` converts weights.

The names in `__all__` are imported when first used, so that `import torchvgg` costs little.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import vgg16, vgg19
    from .dense_evaluation import dense
    from .evaluation import evaluate, evaluate_each
    from .extraction import extract_features
    from .gradcam import grad_cam
    from .image_files import load_image
    from .imagenet import decode_predictions, preprocess_input
    from .inference import optimize_for_inference
    from .loading import load_model
    from .own_modules import load_keras_weights
    from .plots import plot_cam, plot_maps
    from .predicting import class_index
    from .saving import save_model
    from .torchvision_models import from_torchvision
    from .vgg16 import VGG16
    from .vgg19 import VGG19

if Path(__file__).with_name("convert").is_file():  # a link that Git wrote as a text: the folder is beside this one
    __path__.append(str(Path(__file__).parents[1]))

__version__ = "0.1.0"
__all__ = [
    "VGG16",
    "VGG19",
    "class_index",
    "decode_predictions",
    "dense",
    "evaluate",
    "evaluate_each",
    "extract_features",
    "from_torchvision",
    "grad_cam",
    "load_image",
    "load_keras_weights",
    "load_model",
    "optimize_for_inference",
    "plot_cam",
    "plot_maps",
    "preprocess_input",
    "save_model",
    "vgg16",
    "vgg19",
]

_HOME = {
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "class_index": "predicting",
    "decode_predictions": "imagenet",
    "dense": "dense_evaluation",
    "evaluate": "evaluation",
    "evaluate_each": "evaluation",
    "extract_features": "extraction",
    "from_torchvision": "torchvision_models",
    "grad_cam": "gradcam",
    "load_image": "image_files",
    "load_keras_weights": "own_modules",
    "load_model": "loading",
    "optimize_for_inference": "inference",
    "plot_cam": "plots",
    "plot_maps": "plots",
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
