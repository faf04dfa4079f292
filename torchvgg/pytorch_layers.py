"""PyTorch's own layers as Keras's, where both compute the same: class names and configurations."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .activations import ACTIVATIONS, linear, relu_in_place

Step = tuple[str, dict[str, Any]]  # a layer's class name and configuration in Keras
FUNCTION_NAMES = {function: name for name, function in reversed(ACTIVATIONS.items())} | {
    linear: "linear",
    relu_in_place: "relu",
}


def _refuse_unless(is_possible: Any, reason: str) -> None:
    if not is_possible:
        raise ValueError(reason)


def _both(size: Any) -> tuple[Any, Any]:
    return (size, size) if isinstance(size, int | float) else tuple(size)


def _convolution(module: nn.Conv2d) -> list[Step]:
    _refuse_unless(module.padding_mode == "zeros", f"Keras pads with zeros, not padding_mode={module.padding_mode!r}")
    config = {
        "filters": module.out_channels,
        "kernel_size": module.kernel_size,
        "strides": module.stride,
        "dilation_rate": module.dilation,
        "groups": module.groups,
        "use_bias": module.bias is not None,
    }
    if isinstance(module.padding, str):
        return [("Conv2D", config | {"padding": module.padding})]
    halves = [rate * (length - 1) / 2 for length, rate in zip(module.kernel_size, module.dilation, strict=True)]
    if [*module.padding] == halves and module.stride == (1, 1):
        return [("Conv2D", config | {"padding": "same"})]
    rows, columns = module.padding
    padded: list[Step] = [("ZeroPadding2D", {"padding": ((rows, rows), (columns, columns))})]
    return (padded if rows or columns else []) + [("Conv2D", config)]


def _transposed(module: nn.ConvTranspose2d) -> list[Step]:
    is_plain = {*module.padding, *module.output_padding} == {0} and {*module.dilation, module.groups} == {1}
    is_plain = is_plain and all(length >= step for length, step in zip(module.kernel_size, module.stride, strict=True))
    _refuse_unless(
        is_plain,
        "Keras has it without padding, output_padding, dilation and groups, the kernel no less than the stride",
    )
    config = {"filters": module.out_channels, "kernel_size": module.kernel_size, "strides": module.stride}
    return [("Conv2DTranspose", config | {"use_bias": module.bias is not None})]


def _pooling(class_name: str) -> Callable[[Any], list[Step]]:
    def pooling(module: Any) -> list[Step]:
        is_plain = (
            _both(module.padding) == (0, 0) and not module.ceil_mode and _both(getattr(module, "dilation", 1)) == (1, 1)
        )
        is_plain = is_plain and not getattr(module, "return_indices", False)
        is_plain = is_plain and getattr(module, "divisor_override", None) is None
        _refuse_unless(
            is_plain, "Keras pools without padding, dilation, ceil_mode, return_indices and divisor_override"
        )
        return [(class_name, {"pool_size": _both(module.kernel_size), "strides": _both(module.stride)})]

    return pooling


def _global_pooling(class_name: str) -> Callable[[Any], list[Step]]:
    def pooling(module: Any) -> list[Step]:
        is_global = _both(module.output_size) == (1, 1) and not getattr(module, "return_indices", False)
        _refuse_unless(is_global, f"Keras has it for output_size=1 only. Received: {module.output_size}")
        return [(class_name, {"keepdims": True})]

    return pooling


def _batch_normalization(module: Any) -> list[Step]:
    _refuse_unless(
        module.track_running_stats and module.running_mean is not None, "Keras has no track_running_stats=False"
    )
    _refuse_unless(module.momentum is not None, "Keras has no momentum=None")
    config = {"momentum": 1 - module.momentum, "epsilon": module.eps, "center": module.affine, "scale": module.affine}
    return [("BatchNormalization", config)]


def _layer_normalization(module: nn.LayerNorm) -> list[Step]:
    _refuse_unless(len(module.normalized_shape) in (1, 3), "Keras normalizes (features,) or whole images (C, H, W)")
    axis = -1 if len(module.normalized_shape) == 1 else (1, 2, 3)
    config = {
        "axis": axis,
        "epsilon": module.eps,
        "center": module.bias is not None,
        "scale": module.weight is not None,
    }
    return [("LayerNormalization", config)]


def _group_normalization(module: nn.GroupNorm) -> list[Step]:
    config = {"groups": module.num_groups, "epsilon": module.eps, "center": module.affine, "scale": module.affine}
    return [("GroupNormalization", config)]


def _softmax(class_name: str, config: dict[str, Any]) -> Callable[[Any], list[Step]]:
    def softmax(module: Any) -> list[Step]:
        _refuse_unless(module.dim in (1, -1), f"it has to go over the classes, dim=1. Received: dim={module.dim}")
        return [(class_name, config)]

    return softmax


def _flatten(module: nn.Flatten) -> list[Step]:
    _refuse_unless((module.start_dim, module.end_dim) == (1, -1), "Keras flattens all axes but the batch")
    return [("Flatten", {})]


def _zero_padding(module: nn.ZeroPad2d) -> list[Step]:
    left, right, top, bottom = module.padding
    _refuse_unless(min(module.padding) >= 0, "Keras pads, and crops, by numbers from 0 up")
    return [("ZeroPadding2D", {"padding": ((top, bottom), (left, right))})]


def _upsampling(module: nn.Upsample) -> list[Step]:
    factors = None if module.scale_factor is None else _both(module.scale_factor)
    is_plain = factors and all(float(factor).is_integer() for factor in factors) and not module.align_corners
    is_plain = is_plain and module.mode in ("nearest", "bilinear")
    _refuse_unless(is_plain, "Keras scales by whole numbers, nearest or bilinear, corners not aligned")
    return [("UpSampling2D", {"size": tuple(map(int, factors or ())), "interpolation": module.mode})]


def _activation(name: str, **needed: Any) -> Callable[[Any], list[Step]]:
    def activation(module: Any) -> list[Step]:
        for key, value in needed.items():
            own = getattr(module, key)
            _refuse_unless(own == value, f"Keras has it for {key}={value!r} only. Received: {own!r}")
        return [("Activation", {"activation": name})]

    return activation


# By the exact class; a subclass may compute anything.
STEPS: dict[type[nn.Module], Callable[[Any], list[Step]]] = {
    nn.Linear: lambda module: [("Dense", {"units": module.out_features, "use_bias": module.bias is not None})],
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm), _batch_normalization),
    nn.LayerNorm: _layer_normalization,
    nn.GroupNorm: _group_normalization,
    nn.Dropout: lambda module: [("Dropout", {"rate": module.p})],
    nn.Dropout2d: lambda module: [("SpatialDropout2D", {"rate": module.p})],
    nn.AlphaDropout: lambda module: [("AlphaDropout", {"rate": module.p})],
    nn.MaxPool2d: _pooling("MaxPooling2D"),
    nn.AvgPool2d: _pooling("AveragePooling2D"),
    nn.AdaptiveAvgPool2d: _global_pooling("GlobalAveragePooling2D"),
    nn.AdaptiveMaxPool2d: _global_pooling("GlobalMaxPooling2D"),
    nn.Flatten: _flatten,
    nn.Identity: lambda module: [],
    nn.ZeroPad2d: _zero_padding,
    nn.Upsample: _upsampling,
    nn.ReLU: lambda module: [("ReLU", {})],
    nn.ReLU6: lambda module: [("ReLU", {"max_value": 6.0})],
    nn.LeakyReLU: lambda module: [("LeakyReLU", {"negative_slope": module.negative_slope})],
    nn.ELU: lambda module: [("ELU", {"alpha": module.alpha})],
    nn.Softmax: _softmax("Softmax", {}),
    nn.LogSoftmax: _softmax("Activation", {"activation": "log_softmax"}),
    nn.Sigmoid: _activation("sigmoid"),
    nn.Tanh: _activation("tanh"),
    nn.GELU: _activation("gelu", approximate="none"),
    nn.SELU: _activation("selu"),
    nn.CELU: _activation("celu", alpha=1.0),
    nn.SiLU: _activation("silu"),
    nn.Mish: _activation("mish"),
    nn.Softplus: _activation("softplus", beta=1.0, threshold=20.0),
    nn.Softsign: _activation("softsign"),
    nn.LogSigmoid: _activation("log_sigmoid"),
    nn.Hardsigmoid: _activation("hard_sigmoid"),
    nn.Hardswish: _activation("hard_silu"),
    nn.Hardtanh: _activation("hard_tanh", min_val=-1.0, max_val=1.0),
    nn.Hardshrink: _activation("hard_shrink", lambd=0.5),
    nn.Softshrink: _activation("soft_shrink", lambd=0.5),
    nn.Tanhshrink: _activation("tanh_shrink"),
}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns a layer's tensors, without what counts PyTorch's batches, which only matters to it for `momentum=None`."""
    own = module.state_dict(keep_vars=True)
    return {key: tensor for key, tensor in own.items() if key != "num_batches_tracked"}
