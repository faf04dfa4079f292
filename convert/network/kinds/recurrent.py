"""Recurrent layers, which read a sequence step by step."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...layout import CUDNN_BIAS, DENSE_KERNEL, UNCHANGED, cudnn_kernel
from .activations import ACTIVATION, activate
from .kind import Arrays, Features, Kind, Settings, Shape, Spec, is_before_3
from .validators import REQUIRED, Setting, flag, whole


class _Recurrent(Kind):
    settings = {
        "units": Setting(REQUIRED, whole),
        "activation": ACTIVATION._replace(default="tanh"),
        "use_bias": Setting(True, flag),
        "return_sequences": Setting(False, flag),
        "go_backwards": Setting(False, flag),
        "zero_output_for_mask": Setting(False, flag),
    }
    # A stateful layer goes on where the last call ended, from states that Keras 3 even has in its files.
    only = {"return_state": (False, None), "stateful": (False, None), "time_major": (False, None)}
    ranks = (2,)
    is_steep = True
    activates_within = True
    heeds_mask = True
    groups = ("/cell",)
    gates = 1
    states = 1

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        is_needed = "recurrent_activation" in self.settings and is_before_3(keras_version)
        if is_needed and "recurrent_activation" not in given:
            raise ValueError("the setting 'recurrent_activation' is missing")  # its default has changed
        for key in ("activation", "recurrent_activation"):
            if isinstance(given.get(key), dict) and given[key].get("class_name") == "Softmax":
                raise ValueError(f"{key}: a layer Softmax can't be converted, only 'softmax'")  # `axis` counts no time
        return given

    def hands_mask_on(self, config: Mapping[str, Any]) -> bool:
        return bool(config.get("return_sequences"))

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        units = settings["units"]
        yield Spec("weight_ih", (x.channels, self.gates * units), DENSE_KERNEL)
        yield Spec("weight_hh", (units, self.gates * units), DENSE_KERNEL)
        if settings["use_bias"]:
            rows = (2,) if settings.get("reset_after") else ()  # one for the input, one for the state
            yield Spec("bias", (*rows, self.gates * units), UNCHANGED)

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return (shape[0], settings["units"]) if settings["return_sequences"] else (settings["units"],)

    def steps(self, settings: Settings, shape: Shape) -> int:
        return shape[0] or 0

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor, *masks: Tensor) -> Tensor:
        mask = masks[0] if masks else torch.ones(x.shape[:2], dtype=torch.bool)
        arrays, x = [array.double() for array in arrays], x.double()
        states = [x.new_zeros(len(x), settings["units"])] * self.states
        outputs = []
        for t in reversed(range(x.shape[1])) if settings["go_backwards"] else range(x.shape[1]):
            is_kept = mask[:, t, None]
            moved = self.step(settings, arrays, x[:, t], *states)
            states = [torch.where(is_kept, new, old) for new, old in zip(moved, states, strict=True)]
            outputs.append(torch.where(is_kept, states[0], 0) if settings["zero_output_for_mask"] else states[0])
        return (torch.stack(outputs, 1) if settings["return_sequences"] else outputs[-1]).float()

    @abstractmethod
    def step(self, settings: Settings, arrays: Arrays, x: Tensor, *states: Tensor) -> list[Tensor]:
        """Computes the next states, the first of which is the output, from one step's input."""


class SimpleRNN(_Recurrent):
    def step(self, settings: Settings, arrays: Arrays, x: Tensor, *states: Tensor) -> list[Tensor]:
        kernel, recurrent, *bias = arrays
        return [activate(settings["activation"], x @ kernel + states[0] @ recurrent + sum(bias))]


class _Gated(_Recurrent):
    settings = {**_Recurrent.settings, "recurrent_activation": ACTIVATION._replace(default="sigmoid")}


class LSTM(_Gated):
    gates = 4
    states = 2

    def step(self, settings: Settings, arrays: Arrays, x: Tensor, *states: Tensor) -> list[Tensor]:
        kernel, recurrent, *bias = arrays
        h, c = states
        scores = (x @ kernel + h @ recurrent + sum(bias)).chunk(4, -1)
        i, f, o = (activate(settings["recurrent_activation"], scores[gate]) for gate in (0, 1, 3))
        c = f * c + i * activate(settings["activation"], scores[2])
        return [o * activate(settings["activation"], c), c]


class GRU(_Gated):
    settings = {**_Gated.settings, "reset_after": Setting(True, flag)}
    gates = 3

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        given = super().modernize(given, shape, keras_version)
        # What has no name for it, does so.
        return {"reset_after": False, **given} if is_before_3(keras_version) else given

    def step(self, settings: Settings, arrays: Arrays, x: Tensor, *states: Tensor) -> list[Tensor]:
        kernel, recurrent, *bias = arrays
        (h,) = states
        rows = x.new_zeros(2, kernel.shape[1])
        if bias:
            rows[: bias[0].numel() // kernel.shape[1]] = bias[0]
        x_z, x_r, x_n = (x @ kernel + rows[0]).chunk(3, -1)
        (u_z, u_r, u_n), (b_z, b_r, b_n) = recurrent.chunk(3, -1), rows[1].chunk(3)
        z = activate(settings["recurrent_activation"], x_z + h @ u_z + b_z)
        r = activate(settings["recurrent_activation"], x_r + h @ u_r + b_r)
        from_state = r * (h @ u_n + b_n) if settings["reset_after"] else (r * h) @ u_n
        return [z * h + (1 - z) * activate(settings["activation"], x_n + from_state)]


class _CuDNN(_Recurrent):
    """Keras 2's layers for a GPU: the same cells, with fixed activations, no masks, and arrays in a layout of their own."""

    settings = {key: _Recurrent.settings[key] for key in ("units", "return_sequences", "go_backwards")}
    heeds_mask = False
    groups = ("",)

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        units = settings["units"]
        yield Spec("weight_ih", (x.channels, self.gates * units), cudnn_kernel(self.gates))
        yield Spec("weight_hh", (units, self.gates * units), cudnn_kernel(self.gates))
        yield Spec("bias", (2 * self.gates * units,), CUDNN_BIAS)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor, *masks: Tensor) -> Tensor:
        *kernels, bias = arrays
        parts = ([part.reshape(part.shape[::-1]).t() for part in kernel.chunk(self.gates, 1)] for kernel in kernels)
        defaults = {key: setting.default for key, setting in GRU.settings.items()}  # an LSTM's among them
        biases = torch.stack(bias.chunk(2))
        own = [*(torch.cat(gates, 1) for gates in parts), biases if self.gates == 3 else biases.sum(0)]
        return super().reference({**defaults, **settings}, own, x)


class CuDNNLSTM(_CuDNN, LSTM):
    pass


class CuDNNGRU(_CuDNN, GRU):
    pass
