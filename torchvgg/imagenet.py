"""ImageNet pre- and post-processing: `preprocess_input`, `decode_predictions` and the labels."""

import sys
import warnings
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np
import torch

Array = TypeVar("Array", torch.Tensor, np.ndarray)

# The mean of the training images, B, G, R, on a scale of 0 to 255 (from the authors' Caffe models, via Keras).
MEAN_BGR = (103.939, 116.779, 123.68)

# Devices other than the CPU whose first images have been looked at: looking waits for the device, so it is done once.
_seen_devices: set[str] = set()


def preprocess_input(x: Array, data_format: str = "channels_first") -> Array:
    """Preprocesses images as VGG was trained: RGB becomes BGR, and ImageNet's mean is subtracted from each channel.

    Args:
        x: RGB images in [0, 255], `(3, H, W)` or `(N, 3, H, W)`, a tensor or an ndarray. It isn't changed.
        data_format: "channels_first", or "channels_last" for `(H, W, 3)` and `(N, H, W, 3)`.

    Returns:
        A tensor or an ndarray, like `x`, of the same shape. Integers become float32, floats keep their type.

    Raises:
        ValueError: `x` isn't such an array, or `data_format` is neither.

    Warns:
        UserWarning: the values are those of images in [0, 1], or that were preprocessed already. On a GPU only the first images
            are looked at; nothing is while `torch.compile`, `torch.export` or `torch.jit.trace` records.
    """
    if data_format not in ("channels_first", "channels_last"):
        raise ValueError(f"data_format: expected 'channels_first' or 'channels_last'. Received: {data_format!r}")
    if not isinstance(x, (torch.Tensor, np.ndarray)):
        raise ValueError(
            f"expected a torch.Tensor or a numpy.ndarray. Received: {type(x).__name__}; an image of Pillow's becomes one by "
            'np.array(image), with data_format="channels_last"'
        )
    if x.ndim not in (3, 4):
        raise ValueError(f"expected an image or a batch of images, 3-D or 4-D. Received shape: {tuple(x.shape)}")
    is_first = data_format == "channels_first"
    axis, mean_shape, other = (-3, (3, 1, 1), "channels_last") if is_first else (-1, (3,), "channels_first")
    if x.shape[axis] != 3:
        advice = f"; for the other order pass data_format={other!r}" if x.shape[-1 if is_first else -3] == 3 else ""
        raise ValueError(
            f"expected 3 channels on axis {axis}, as data_format={data_format!r} says. Received shape: {tuple(x.shape)}{advice}"
        )
    if "complex" in str(x.dtype) or x.dtype == object:
        raise ValueError(f"expected real numbers. Received: {x.dtype}")
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):  # type: ignore[attr-defined]
        _warn_of_range(x, is_first)
    if isinstance(x, torch.Tensor):
        images = x if x.is_floating_point() else x.float()
        return images.flip(axis) - images.new_tensor(MEAN_BGR).reshape(mean_shape)
    array = x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float32)
    return np.flip(array, axis) - np.array(MEAN_BGR, array.dtype).reshape(mean_shape)


PREPROCESSED = (
    "preprocess_input: expected RGB in [0, 255]. Received: images with negative values, as if they had been preprocessed already; "
    "preprocess once, from the original pixels"
)
SCALED = (
    "preprocess_input: expected RGB in [0, 255]. Received: images in [0, 1], as torchvision's ToTensor() makes them; call "
    "preprocess_input(255 * x). Only for a model that was trained on x / 255, leave preprocess_input out (on the command line, "
    "--preprocess unit)"
)


def _warn_of_range(x: Any, is_first: bool) -> None:
    """Warns if floats are certainly no pixels in [0, 255]. Looks at some 14×14 pixels of up to 8 images, which takes 30 µs."""
    if isinstance(x, torch.Tensor):
        if not x.is_floating_point() or x.is_meta or x.device.type in _seen_devices:
            return
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        if x.device.type != "cpu":
            _seen_devices.add(x.device.type)
        x = x.detach()
    elif not np.issubdtype(x.dtype, np.floating):
        return
    if 0 in x.shape:
        return
    sample, step = x[:8] if x.ndim == 4 else x, max(1, x.shape[-2] // 14)
    sample = sample[..., ::step, ::step] if is_first else sample[..., ::step, ::step, :]
    try:
        mistake = _mistake(sample)
        # A dark image's pixels may be 0 and 1 alone, so one between them is needed. Only what looks wrong is looked at as a whole.
        if mistake and (mistake is PREPROCESSED or (sample % 1 != 0).any()) and _mistake(x) is mistake:
            warn(mistake)
    except RuntimeError:  # a tensor without values, as under torch.vmap
        return


def _mistake(x: Any) -> str | None:
    low, high = float(x.min()), float(x.max())
    if low < -high / 4:  # not what bicubic resizing or an optimiser overshoots by
        return PREPROCESSED
    return SCALED if low >= 0 and high <= 1 else None


def warn(message: str) -> None:
    """Warns of a mistake, with the line of the user's code that called torchvgg. Silent where `torch.jit.trace` tries its result."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("torchvgg", "torch", "contextlib"):
        level, frame = level + 1, frame.f_back
    while frame.f_back and frame.f_globals.get("__name__") != "torch.jit._trace":
        frame = frame.f_back
    if not frame.f_back:
        warnings.warn(message, stacklevel=level)


def decode_predictions(preds: torch.Tensor | np.ndarray, top: int = 5) -> list[list[tuple[str, str, np.floating]]]:
    """Returns the likeliest ImageNet classes of each sample.

    Args:
        preds: class scores `(N, 1000)`, a tensor or an ndarray.
        top: the number of classes to return.

    Returns:
        For each sample a list of `(WordNet id, name, score)`, the highest score first.

    Raises:
        ValueError: `preds` has another shape, or `top` is under 1.
    """
    if top < 1:
        raise ValueError(f"top: expected a number from 1 up. Received: {top}")
    if preds.ndim != 2 or preds.shape[1] != 1000:
        raise ValueError(f"expected predictions of shape (N, 1000). Received: {tuple(preds.shape)}")
    if isinstance(preds, torch.Tensor):
        preds = preds.detach().cpu()
        preds = (preds.float() if preds.dtype == torch.bfloat16 else preds).numpy()
    ranked = np.argsort(preds, axis=1)[:, ::-1][:, :top]
    return [[(*labels()[i], scores[i]) for i in best] for scores, best in zip(preds, ranked, strict=True)]


@cache
def labels() -> tuple[tuple[str, str], ...]:
    """Returns the 1,000 classes of ILSVRC 2012 in the order of the model's output: `(WordNet id, name)`.

    As JSON, `{"0": [id, name], …}`, they are byte for byte Keras's `imagenet_class_index.json`
    (MD5 c2c37ea517e94d9795004a39431a14cb), as a test checks.
    """
    text = files(__package__).joinpath("imagenet_labels.txt").read_text("utf-8")
    return tuple((wnid, name) for wnid, name in map(str.split, text.splitlines()))
