"""Recurrent layers, which read a sequence step by step."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import Activation, activation_name, get_activation
from .shared import Config, Shapes, check_like_weights

__all__ = ["GRU", "LSTM", "CuDNNGRU", "CuDNNLSTM", "SimpleRNN"]


class _Recurrent(nn.Module):
    """Runs a cell, `step`, over time: `(N, time, in_features)` → `(N, units)`, or `(N, time, units)` with `return_sequences`.

    `weight_ih` is `(gates * units, in_features)` and `weight_hh` `(gates * units, units)`, the gates in Keras's order. With
    `go_backwards` the sequence is read, and returned, from its end.
    """

    gates = 1
    states = 1  # the first is the output

    def __init__(
        self,
        in_features: int,
        units: int,
        activation: Activation = "tanh",
        use_bias: bool = True,
        return_sequences: bool = False,
        go_backwards: bool = False,
        zero_output_for_mask: bool = False,
    ) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(self.gates * units, in_features))
        self.weight_hh = nn.Parameter(torch.empty(self.gates * units, units))
        self.bias = nn.Parameter(torch.zeros(self.gates * units)) if use_bias else None
        self.units, self.activation = units, get_activation(activation)
        self.return_sequences, self.go_backwards = return_sequences, go_backwards
        self.zero_output_for_mask = zero_output_for_mask
        nn.init.xavier_uniform_(self.weight_ih)
        nn.init.orthogonal_(self.weight_hh)

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"in_features": shapes["weight_ih"][1]}

    def extra_repr(self) -> str:
        flags = ("return_sequences", "go_backwards", "zero_output_for_mask")
        given = "".join(f", {flag}=True" for flag in flags if getattr(self, flag))
        return f"{self.weight_ih.shape[1]}, {self.units}{given}, activation={activation_name(self.activation)}"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the last output, or those of all steps.

        `mask` is `(N, time)`, bool: at a step where it is False the state stays as it was, and so does the output; with
        `zero_output_for_mask` the output is zero there.
        """
        check_like_weights(x, self.weight_ih)
        bias, recurrent_bias = (self.bias, None) if self.bias is None or self.bias.dim() == 1 else self.bias
        steps = F.linear(x, self.weight_ih, bias).unbind(1)  # of (N, gates * units), all in one product
        states = (x.new_zeros(x.shape[0], self.units),) * self.states
        outputs = []
        for t in reversed(range(len(steps))) if self.go_backwards else range(len(steps)):
            moved = self.step(steps[t], recurrent_bias, *states)
            if mask is None:
                states, output = moved, moved[0]
            else:
                is_kept = mask[:, t, None]
                states = tuple(torch.where(is_kept, new, old) for new, old in zip(moved, states, strict=True))
                output = torch.where(is_kept, states[0], 0) if self.zero_output_for_mask else states[0]
            outputs.append(output)
        return torch.stack(outputs, 1) if self.return_sequences else outputs[-1]

    @abstractmethod
    def step(self, x: Tensor, recurrent_bias: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Returns the next states; `x` is one step's input, multiplied by `weight_ih`."""


class SimpleRNN(_Recurrent):
    """`keras.layers.SimpleRNN`: `(N, time, in_features)` → `(N, units)`, or `(N, time, units)` with `return_sequences`.

    `forward(x, mask)` skips the steps where `mask`, `(N, time)`, is False. Keras's `dropout` isn't applied, in training neither.
    """

    def step(self, x: Tensor, recurrent_bias: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        return (self.activation(x + F.linear(states[0], self.weight_hh, recurrent_bias)),)


class _Gated(_Recurrent):
    def __init__(
        self, in_features: int, units: int, *, recurrent_activation: Activation = "sigmoid", **arguments: Any
    ) -> None:
        super().__init__(in_features, units, **arguments)
        self.recurrent_activation = get_activation(recurrent_activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, recurrent_activation={activation_name(self.recurrent_activation)}"


class LSTM(_Gated):
    """`keras.layers.LSTM`: `(N, time, in_features)` → `(N, units)`, or `(N, time, units)` with `return_sequences`.

    The gates are in the order input, forget, candidate, output. `forward(x, mask)` skips the steps where `mask`, `(N, time)`,
    is False. Keras's `dropout` isn't applied, in training neither.
    """

    gates = 4
    states = 2

    def __init__(self, in_features: int, units: int, **arguments: Any) -> None:
        super().__init__(in_features, units, **arguments)
        if self.bias is not None:
            nn.init.ones_(self.bias[units : 2 * units])  # Keras's unit_forget_bias

    def step(self, x: Tensor, recurrent_bias: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        h, c = states
        i, f, g, o = (x + F.linear(h, self.weight_hh, recurrent_bias)).chunk(4, -1)
        c = self.recurrent_activation(f) * c + self.recurrent_activation(i) * self.activation(g)
        return self.recurrent_activation(o) * self.activation(c), c


class GRU(_Gated):
    """`keras.layers.GRU`: `(N, time, in_features)` → `(N, units)`, or `(N, time, units)` with `return_sequences`.

    The gates are in the order update, reset, candidate. With `reset_after` the reset gate acts on the state after its product,
    and `bias` is `(2, 3 * units)`, for the input and for the state. `forward(x, mask)` skips the steps where `mask`,
    `(N, time)`, is False. Keras's `dropout` isn't applied, in training neither.
    """

    gates = 3

    def __init__(self, in_features: int, units: int, *, reset_after: bool = True, **arguments: Any) -> None:
        super().__init__(in_features, units, **arguments)
        self.reset_after = reset_after
        if reset_after and self.bias is not None:
            self.bias = nn.Parameter(torch.zeros(2, 3 * units))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reset_after={self.reset_after}"

    def step(self, x: Tensor, recurrent_bias: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        (h,) = states
        x_gates, x_candidate = x.split((2 * self.units, self.units), -1)
        if self.reset_after:
            scores = F.linear(h, self.weight_hh, recurrent_bias)
            gates, candidate = scores.split((2 * self.units, self.units), -1)
            z, r = self._gates(x_gates + gates)
            candidate = r * candidate
        else:
            for_gates, for_candidate = self.weight_hh.split((2 * self.units, self.units))
            z, r = self._gates(x_gates + F.linear(h, for_gates))
            candidate = F.linear(r * h, for_candidate)
        return (z * h + (1 - z) * self.activation(x_candidate + candidate),)

    def _gates(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        z, r = scores.chunk(2, -1)  # activated by themselves: a softmax is each gate's own
        return self.recurrent_activation(z), self.recurrent_activation(r)


class CuDNNLSTM(LSTM):
    """Keras 2's `CuDNNLSTM`: an LSTM whose `bias` is `(2, 4 * units)`, for the input and for the state."""

    def __init__(
        self, in_features: int, units: int, return_sequences: bool = False, go_backwards: bool = False
    ) -> None:
        super().__init__(in_features, units, return_sequences=return_sequences, go_backwards=go_backwards)
        assert self.bias is not None
        self.bias = nn.Parameter(torch.stack([self.bias.detach(), torch.zeros(4 * units)]))


class CuDNNGRU(GRU):
    """Keras 2's `CuDNNGRU`: a GRU with `reset_after`."""

    def __init__(
        self, in_features: int, units: int, return_sequences: bool = False, go_backwards: bool = False
    ) -> None:
        super().__init__(in_features, units, return_sequences=return_sequences, go_backwards=go_backwards)
