"""Masks of sequences: which layers take one, make one, and hand it on to those that they feed, as Keras does."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from .architecture_json import Operand
from .calls import Calls, Value
from .graph import Described
from .kinds import KINDS


class MaskedCalls(Calls):
    """Collects calls of layers, with the masks among their inputs, those that Keras hands on from layer to layer too.

    Attributes:
        is_old: whether Keras 1 or 2 wrote the file.
        masks: by an output, the mask that is handed on with it, where no file has it.
    """

    def __init__(self, is_old: bool) -> None:
        super().__init__()
        self.is_old = is_old
        self.masks: dict[Value, Value] = {}

    def inputs_of_module(self, custom: Described, tensors: Sequence[Operand], inputs: Sequence[Value]) -> list[Value]:
        """Returns the inputs of a module of the user's, and their mask if its `forward` has an argument of that name."""
        values, masks = without_masks(tensors, inputs)
        masks = masks or [self.masks[value] for value in values if value in self.masks]
        module = custom.config.get("module")
        takes_mask = isinstance(module, nn.Module) and "mask" in inspect.signature(module.forward).parameters
        return [*values, *[mask for mask in masks[:1] if takes_mask and mask is not None]]

    def is_masked(self, tensors: Sequence[Operand], inputs: Sequence[Value]) -> bool:
        """Tells whether a call has a mask among its arguments, or one that is handed on with an input."""
        return any(value in self.masks for value in inputs) or any(operand.keyword == "mask" for operand in tensors)

    def inputs_of_layer(self, layer: Described, tensors: Sequence[Operand], inputs: Sequence[Value]) -> list[Value]:
        """Returns the inputs of a layer: one that heeds a mask has it as the last.

        Keras 3's Functional models have their masks in the file. Elsewhere they are handed on, from layer to layer.
        """
        values, mask = without_masks(tensors, inputs)
        kind = KINDS.get(layer.class_name)
        if not kind:
            return values
        masks = [self.masks.get(value) for value in values]
        known = [found for found in masks if found is not None]
        handed_on = list(dict.fromkeys(known))
        if layer.class_name == "Embedding" and layer.config.get("mask_zero"):
            handed_on = [self.make_mask(layer, "NotEqual", {"value": 0}, values)]
        elif layer.class_name == "Masking":  # where all numbers of a step are that value
            differs = self.make_mask(layer, "NotEqual", {"value": layer.config.get("mask_value", 0)}, values)
            handed_on = [self.make_mask(layer, "Reduce", {"function": "any", "axis": -1}, [differs])]
        elif layer.class_name == "Concatenate" and layer.config.get("axis") in (1, -2) and None not in masks:
            handed_on = [self.make_mask(layer, "Concatenate", {"axis": 1}, known)]
        elif len(masks) > 1 and None in masks and not self.is_old:
            handed_on = []
        elif len(handed_on) > 1:  # a step is kept that all inputs keep; in Keras 3, that one of them keeps
            handed_on = [self.make_mask(layer, "Minimum" if self.is_old else "Maximum", {}, handed_on)]
        if mask and self.is_old:
            handed_on = mask
        if kind.heeds_mask:
            values += (mask or handed_on)[:1]
        is_dropped = self.is_old and layer.class_name == "Rescaling"
        if handed_on and kind.hands_mask_on(layer.config) and not is_dropped:
            self.masks[len(self.calls)] = handed_on[0]  # of the call that is added next
        return values

    def make_mask(self, layer: Described, class_name: str, config: dict[str, Any], inputs: Sequence[Value]) -> Value:
        """Computes a mask that a layer makes, or makes of those of its inputs."""
        name = f"{layer.own_name}_mask_{class_name.lower()}"
        return self.add(Described(class_name, name, config, path=(*layer.path[:-1], name)), inputs, True)

    def hand_mask_on(self, before: Value, after: Value) -> None:
        if before in self.masks:
            self.masks[after] = self.masks[before]


def without_masks(operands: Sequence[Operand], inputs: Sequence[Value]) -> tuple[list[Value], list[Any]]:
    """Returns the inputs of a call but for its masks, and these, if it has any; None is where an input has none."""
    remaining = iter(inputs)
    named = [(operand, next(remaining) if operand.layer is not None else None) for operand in operands]
    masks = [value for operand, value in named if operand.keyword == "mask"]
    values = [value for operand, value in named if operand.keyword != "mask" and value is not None]
    return values, masks if any(mask is not None for mask in masks) else []
