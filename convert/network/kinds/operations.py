"""Operations that people leave in a graph between layers. None of them is a layer of Keras's."""

from typing import Any

import torch
from torch import Tensor

from .kind import Arrays, Kind, Settings, Shape
from .validators import REQUIRED, Setting, flag, integer, number, one_of


class _Operation(Kind):
    ranks = (0, 1, 2, 3, 4)


class Absolute(_Operation):
    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return torch.where(x < 0, -x, x)


class Power(_Operation):
    settings = {"exponent": Setting(REQUIRED, number)}
    is_steep = True

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return (x.double() ** settings["exponent"]).float()


class Clip(_Operation):
    settings = {"min_value": Setting(None, number), "max_value": Setting(None, number)}

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        least, most = settings["min_value"], settings["max_value"]
        x = x if least is None else torch.where(x < least, least, x)
        return x if most is None else torch.where(x > most, most, x)


class Cast(_Operation):
    """To numbers with a point, of whole ones or a mask; or to whole numbers, without what comes after the point."""

    settings = {"dtype": Setting(REQUIRED, one_of("float", "int"))}
    is_steep = True

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x.float() if settings["dtype"] == "float" else torch.where(x < 0, x.ceil(), x.floor())


class FullLike(_Operation):
    """A mask that is the same everywhere."""

    settings = {"value": Setting(REQUIRED, flag)}

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return torch.full(x.shape, settings["value"])


class NotEqual(Kind):
    """Which numbers of a sequence aren't 0, say: its mask."""

    settings = {"value": Setting(0, number)}
    ranks = (1, 2)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x != settings["value"]


def _some_axes(value: Any) -> bool:
    """Accepts axes as `read_settings` leaves them, but the batch."""
    axes = value if isinstance(value, tuple) else (value,)
    return all(isinstance(axis, int) and axis != 0 for axis in axes)


class Reduce(_Operation):
    settings = {
        "function": Setting(REQUIRED, one_of("mean", "sum", "max", "min", "any", "norm")),
        "axis": Setting(REQUIRED, _some_axes),
        "keepdims": Setting(False, flag),
    }

    def output(self, settings: Settings, shape: Shape) -> Shape:
        axes = self._axes(settings, len(shape))
        kept = enumerate(shape, start=1)
        if settings["keepdims"]:
            return tuple(1 if axis in axes else size for axis, size in kept)
        return tuple(size for axis, size in kept if axis not in axes)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        for axis in sorted(self._axes(settings, x.dim() - 1), reverse=True):
            parts = x.double().unbind(axis)
            total = torch.stack(parts, -1)
            if settings["function"] == "any":
                x = total.sum(-1) > 0  # of a mask
            elif settings["function"] == "norm":
                x = total.square().sum(-1).sqrt()
            elif settings["function"] in ("max", "min"):
                ordered = total.sort(-1).values
                x = ordered[..., -1 if settings["function"] == "max" else 0]
            else:
                x = total.sum(-1) / (len(parts) if settings["function"] == "mean" else 1)
            x = x.unsqueeze(axis) if settings["keepdims"] else x
        return x if settings["function"] == "any" else x.float()

    def _axes(self, settings: Settings, rank: int) -> set[int]:
        axes = settings["axis"] if isinstance(settings["axis"], tuple) else (settings["axis"],)
        return {rank if axis == -1 else axis for axis in axes}


def _whole(value: Any) -> bool:
    return value is None or (integer(value) and abs(value) < 2**31)


def _index(value: Any) -> bool:
    """Accepts the index of `x[…]`: whole numbers, None, "...", and `("slice", start, stop, step)`."""

    def is_item(item: Any) -> bool:
        match item:
            case ("slice", start, stop, step):
                is_whole = all(map(_whole, (start, stop, step)))
                return is_whole and (step is None or step > 0 or (start, stop, step) == (None, None, -1))
        return item == "..." or _whole(item)

    return isinstance(value, tuple) and len(value) <= 8 and all(map(is_item, value)) and value.count("...") <= 1


class GetItem(_Operation):
    settings = {"index": Setting(REQUIRED, _index)}

    def output(self, settings: Settings, shape: Shape) -> Shape:
        items = whole_index(settings["index"], len(shape) + 1)
        sizes: list[int | None] = [0, *shape]
        found: list[int | None] = []
        for item in items:
            if item is None:
                found.append(1)
                continue
            size = sizes.pop(0)
            if item == "every":
                found.append(size)
            elif isinstance(item, tuple):
                _, start, stop, step = item
                found.append(None if size is None else len(range(*slice(start, stop, step).indices(size))))
            elif size is not None and not -size <= item < size:
                raise ValueError(f"the index {item} of an axis {size} long")
        if items[0] != "every":
            raise ValueError(f"an index of the batch, {settings['index']!r}, can't be converted")
        return tuple(found[1:])

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        kinds = {"...": ..., None: None}
        items = [slice(*item[1:]) if isinstance(item, tuple) else kinds.get(item, item) for item in settings["index"]]
        return torch.from_numpy(x.numpy()[tuple(items)].copy())


def whole_index(index: tuple[Any, ...], rank: int) -> list[Any]:
    """Writes an index out for all axes: "every" for an axis that it leaves as it is."""
    given = sum(item is not None and item != "..." for item in index)
    if given > rank:
        raise ValueError(f"an index of {given} axes, of {rank}")
    missing = ["every"] * (rank - given)
    place = index.index("...") if "..." in index else len(index)
    items = [*index[:place], *missing, *index[place + 1 :]]
    return ["every" if item == ("slice", None, None, None) else item for item in items]


class MergeTime(Kind):
    """What a TimeDistributed does first: `(N, time, …)` → `(N * time, …)`."""

    ranks = (2, 3, 4)

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return shape[1:]

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x.flatten(0, 1)


class SplitTime(Kind):
    """What a TimeDistributed does last: `(N * time, …)` and its input, `(N, time, …)` → `(N, time, …)`."""

    inputs = (2, 2)

    def output(self, settings: Settings, shape: Shape, *others: Shape) -> Shape:
        return others[0][0], *shape

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor, *others: Tensor) -> Tensor:
        return x.unflatten(0, others[0].shape[:2])
