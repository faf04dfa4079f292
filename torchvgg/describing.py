"""Describing a model as the calls of Keras's layers that compute the same, which is what a file of ours holds.

torchvgg's own layers are described by what they were made with, PyTorch's by the table in `pytorch_layers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from . import layers
from .loading import from_config
from .model import INPUT, InKeras, Model, Shape, mapped
from .pytorch_layers import FUNCTION_NAMES, STEPS, Step, tensors_of
from .vgg16 import VGG16
from .vgg19 import VGG19

if TYPE_CHECKING:
    from .convert.network.calls import Value

OWN = {value for value in vars(layers).values() if isinstance(value, type)}
MODELS = (Model, VGG16, VGG19)
WRAPPERS = {
    **dict.fromkeys(("DataParallel", "DistributedDataParallel", "AveragedModel"), "module"),
    "OptimizedModule": "_orig_mod",
}
COPIES = {"OptimizedModel": "optimize_for_inference", "FullyConvolutional": "dense"}
ACTIVATIONS = ("activation", "recurrent_activation")  # settings
ACTIVATION_LAYERS = ("ReLU", "LeakyReLU", "ThresholdedReLU", "ELU", "Softmax")  # that may stand as an activation
UNTOLD = {*vars(nn.Module()), *ACTIVATIONS, "keras_arguments", "trainable"}  # attributes that aren't compared


class Place(NamedTuple):
    """Where a layer is.

    Attributes:
        name: in the user's model, "1.0".
        path: in Keras: its name in each model that it lies in.
        group: in a `.weights.h5`; None if it isn't known.
        title: what the file calls it, unless another layer is called so.
    """

    name: str = ""
    path: tuple[str, ...] = ()
    group: str | None = ""
    title: str = ""

    def within(self, name: str, path: tuple[str, ...], group: str | None) -> Place:
        """Returns the place of a child, whose own place is relative to this."""
        known = None if self.group is None or group is None else f"{self.group}/{group}".lstrip("/")
        return Place(f"{self.name}.{name}".lstrip("."), (*self.path, *path), known, path[-1])


class Leaf(NamedTuple):
    """A layer of the user's model, and the numbers of the calls that stand for one call of it."""

    name: str
    module: nn.Module
    calls: list[int]


class Description:
    """A model as the calls of Keras's layers.

    Attributes:
        graph: what `convert` makes a network of.
        calls: the same calls before they had names.
        leaves: the layers of the model that they stand for.
        tensors: by their names in the file.
    """

    def __init__(self, model: nn.Module) -> None:
        from .convert.network.calls import Calls
        from .convert.network.network import channels_last

        for own, module in model.named_modules():
            if type(module).__name__ in COPIES:
                reason = f"it is what {COPIES[type(module).__name__]} made of a model"
                raise refused(own, module, reason, "put that model in its place")
        self._calls = Calls()
        self.calls = self._calls.calls
        self.leaves: list[Leaf] = []
        self._tensors: dict[tuple[str, ...], dict[str, Tensor]] = {}  # by the layers' paths
        self._owners: dict[int, tuple[str, ...]] = {}  # of tensors, by their ids
        if isinstance(model, MODELS) and type(model) in MODELS:
            shapes, name, class_name = model.input_shapes, model.name, model.keras_class
            outputs = self._outputs(model, [*shapes], Place())
        else:
            shapes, name, class_name = {INPUT: input_shape_of(model)}, "sequential", "Sequential"
            outputs = self._call(model, [INPUT], Place())
        self.inputs = list(shapes)
        of_keras = {own: (None, *channels_last(shape[1:])) for own, shape in shapes.items()}
        self.graph = self._calls.graph(name, of_keras, outputs)._replace(class_name=class_name)
        self.tensors = {
            f"{layer.name}.{key}": tensor.detach()
            for layer in self.graph.layers
            for key, tensor in self._tensors[layer.path].items()
        }

    def _outputs(self, model: Model, inputs: list[Value], place: Place) -> Any:
        """Calls a model. Returns its outputs in their structure."""
        if len(inputs) != len(model.input_shapes):
            raise refused(place.name, model, f"called with {len(inputs)} inputs, it has {len(model.input_shapes)}")
        children, known, places = _children(model), model.in_keras, {}
        flat = {own: child for own, child in children.items() if own not in known or len(known[own].path) < 2}
        numbered = _numbered(flat, place.name)
        for own, child in children.items():
            in_keras = known.get(own, InKeras("", own, (own,), ""))
            if own in flat:
                group: str | None = numbered[own][1]
            else:  # a layer of another class may change the numbers in its nested model
                group = in_keras.group if _class_names(child, own) == [in_keras.class_name] else None
            places[own] = place.within(own, in_keras.path, (group or None) if model.keras_class else None)
            places[own] = places[own]._replace(title=in_keras.name)
        values: dict[str, Value] = dict(zip(model.input_shapes, inputs, strict=True))
        for node in model.nodes:
            values[node.name] = self._call(
                children[node.layer], [values[own] for own in node.inputs], places[node.layer]
            )
        return mapped(values.__getitem__, model.outputs)

    def _call(self, module: nn.Module, inputs: list[Value], place: Place) -> Value:
        """Calls a layer or a model. Returns its output."""
        module = unwrapped(module)
        if type(module) in MODELS:
            assert isinstance(module, Model)
            output = self._outputs(module, inputs, place)
            if not isinstance(output, int | str):
                raise refused(place.name, module, "a model of several outputs within another can't be saved")
            return output
        if type(module) is nn.Sequential:
            children = _children(module)
            for own, (segment, group) in _numbered(children, place.name).items():
                inputs = [self._call(children[own], inputs, place.within(own, (segment,), group))]
            return inputs[0]
        numbers: list[int] = []
        steps = steps_of(place.name, module)
        for class_name, config in steps:
            step = place
            if len(numbers) < len(steps) - 1:  # the last has the tensors
                title = f"{place.title}_{class_name.lower()}"
                step = place._replace(path=(*place.path[:-1], title), title=title)
            self._keep_tensors(step, module, tensors_of(module) if step is place else {})
            numbers.append(self._add(class_name, config, step, _is_trainable(place.name, module), inputs))
            inputs = [numbers[-1]]
        if numbers:
            self.leaves.append(Leaf(place.name, module, numbers))
        return inputs[0]

    def _add(self, class_name: str, config: Any, place: Place, trainable: bool, inputs: list[Value]) -> int:
        from .convert.network.graph import Described

        own = Described(class_name, place.title, config, trainable, path=place.path, place=place.group or "")
        return int(self._calls.add(own, inputs))

    def _keep_tensors(self, place: Place, module: nn.Module, own: dict[str, Tensor]) -> None:
        from .convert.network.network import is_finite
        from .convert.write.pytorch import TYPE_NAMES

        for key, tensor in own.items():
            if tensor.is_meta:
                raise refused(place.name, module, f"its {key} is on the meta device, without numbers")
            if tensor.dtype not in TYPE_NAMES:
                raise refused(place.name, module, f"its {key} is {tensor.dtype}, which can't be written")
            if not is_finite(tensor.detach()):
                reason = f"NaN or infinity among the values of its {key}, as where training diverged"
                raise refused(place.name, module, reason, "save the model of an earlier epoch")
            if self._owners.setdefault(id(tensor), place.path) != place.path:
                owner = "/".join(self._owners[id(tensor)])
                raise refused(place.name, module, f"it shares its {key} with {owner}; in Keras two layers can't")
        self._tensors[place.path] = own


def input_shape_of(model: nn.Module) -> Shape:
    """Returns the shape that the first of our models in a Sequential takes. Raises a ValueError if there is none."""
    if type(model) is nn.Sequential:
        channels = None
        for module in model.modules():
            if isinstance(module, Model):
                if len(module.input_shapes) > 1:
                    raise refused("", module, "a Sequential has one input")
                shape = next(iter(module.input_shapes.values()))
                return (None, channels or shape[1], *shape[2:]) if len(shape) == 4 else shape
            channels = channels or getattr(module, "in_channels", None)  # of a convolution in front of it
    raise ValueError(
        "save_model: expected a VGG16, a VGG19, what load_model returns, or an nn.Sequential with one of them in it. "
        f"Received: {type(model).__name__}{' without one' if type(model) is nn.Sequential else ''}; make it an nn.Sequential of "
        "that model and what follows, or keep its weights with torch.save(model.state_dict(), …)"
    )


def unwrapped(module: nn.Module) -> nn.Module:
    """Returns the module in DataParallel, DistributedDataParallel, AveragedModel or what torch.compile made."""
    while type(module).__name__ in WRAPPERS:
        module = getattr(module, WRAPPERS[type(module).__name__])
    return module


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Returns a module's children by their names; one that is there twice too."""
    return {own: unwrapped(child) for own, child in module._modules.items() if child is not None}


def _numbered(children: dict[str, nn.Module], name: str) -> dict[str, tuple[str, str]]:
    """Returns for the layers of one model their names in Keras, and their groups: each class is numbered by itself.

    A child of a Sequential without a name of its own, "0", has the one that Keras would give.
    """
    from .convert.network.weights_groups import places

    kinds = {own: _class_names(child, f"{name}.{own}".lstrip(".")) for own, child in children.items()}
    groups = places(class_name for names in kinds.values() for class_name in names)
    found: dict[str, tuple[str, str]] = {}
    taken = {own for own in children if not own.isdecimal()}
    for own, names in kinds.items():
        group = [next(groups) for _ in names][-1:]  # of several steps the last has the arrays
        segment = own
        if own.isdecimal():
            child = children[own]
            segment = child.name if isinstance(child, Model) else "".join(group).removeprefix("layers/")
            while segment in taken:
                segment += "_"
            taken.add(segment)
        found[own] = segment, "".join(group)
    return found


def _class_names(module: nn.Module, name: str) -> list[str]:
    """Returns the classes that a layer or a model has in Keras, where it may be several layers, or none."""
    if isinstance(module, Model):
        return [module.keras_class or "Functional"]
    return ["Sequential"] if type(module) is nn.Sequential else [class_name for class_name, _ in steps_of(name, module)]


def steps_of(name: str, module: nn.Module) -> list[Step]:
    """Returns the layers of Keras's, by class and configuration, that do what a layer does, one after the other."""
    if isinstance(vars(module).get("weight"), Tensor):
        reason = "its weight is computed from others, as weight_norm, spectral_norm and prune do"
        raise refused(
            name, module, reason, "call torch.nn.utils' remove_weight_norm, remove_spectral_norm or prune.remove"
        )
    if type(module) in OWN:
        return [(type(module).__name__, _config(name, module))]
    if type(module) not in STEPS:
        known = ", ".join(sorted({kind.__name__ for kind in STEPS}))
        advice = f"put in a layer of torchvgg.layers, or one of PyTorch's {known}"
        raise refused(name, module, "Keras's counterpart of it isn't known", advice)
    try:
        return STEPS[type(module)](module)
    except ValueError as error:
        raise refused(name, module, str(error)) from None


def _config(name: str, module: nn.Module) -> dict[str, Any]:
    """Returns the configuration of a layer of ours: what it was made with, and its present activation.

    Raises a ValueError if a layer that is made of it anew has other attributes.
    """
    from .convert.network.kinds import KINDS
    from .convert.network.settings import plain_value

    class_name = type(module).__name__
    settings = KINDS[class_name].settings
    if not hasattr(module, "keras_arguments"):
        raise refused(name, module, "it was pickled by an earlier version of torchvgg, and doesn't know its arguments")
    arguments = {key: value for key, value in module.keras_arguments.items() if key in settings}  # type: ignore[operator,union-attr]
    config = {key: _plain(value, settings[key]) for key, value in arguments.items() if key not in ACTIVATIONS}
    for key in ACTIVATIONS:
        if key in settings:
            config[key] = _activation(name, module, getattr(module, key))
    with torch.device("meta"):
        anew = from_config(class_name, config, {key: tensor.shape for key, tensor in tensors_of(module).items()})
    for key, value in vars(anew).items():
        own = vars(module).get(key, value)
        if key not in UNTOLD and plain_value(own) != plain_value(value):
            reason = f"its {key} has become {own!r}, and it was made with {value!r}"
            raise refused(name, module, reason, "put a new layer in its place")
    return config


def _plain(value: Any, setting: Any) -> Any:
    """Returns an argument as the conversion has it: plain numbers, and tuples where one number stood for both axes."""
    from .convert.network.settings import plain_value

    value = plain_value(value.tolist() if hasattr(value, "tolist") else value)
    if isinstance(value, int) and value is not setting.default and not setting.is_valid(value):
        return next((several for several in ((value,), (value, value)) if setting.is_valid(several)), value)
    return value


def _activation(name: str, module: nn.Module, activation: Any) -> Any:
    """Returns an activation's name, or the class and configuration of a layer that stands as one."""
    if isinstance(activation, nn.Module):
        match steps_of(f"{name}.activation", activation):
            case []:
                return "linear"
            case [("Activation", {"activation": inner})]:
                return inner
            case [(class_name, config)] if class_name in ACTIVATION_LAYERS:
                return {"class_name": class_name, "config": config}
    elif activation in FUNCTION_NAMES:
        return FUNCTION_NAMES[activation]
    own = getattr(activation, "__name__", type(activation).__name__)
    raise refused(name, module, f"its activation, {own}, isn't one of Keras's", "give it by its name in Keras")


def _is_trainable(name: str, module: nn.Module) -> bool:
    flags = {parameter.requires_grad for parameter in module.parameters()}
    if len(flags) > 1:
        raise refused(name, module, "it is frozen in part; Keras freezes whole layers", "call its requires_grad_")
    return flags.pop() if flags else bool(getattr(module, "trainable", True))


def refused(name: str, module: nn.Module, reason: str, advice: str = "") -> ValueError:
    """Returns the error for a layer that can't be saved."""
    title = f"{name} ({type(module).__name__})" if name else type(module).__name__
    advice = advice or "put another layer in its place, or keep the weights with torch.save(model.state_dict(), …)"
    return ValueError(f"save_model: {title}: {reason}; {advice}")
