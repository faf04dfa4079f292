"""Computing the vectors of decoded images: the model up to a layer, and the `Extractor` that runs it on batches."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..image_files import image_shape, image_size, preprocess
from ..inference.optimized_model import optimize_for_inference
from ..layers.reshaping import Flatten
from ..model import Model
from ..vgg import global_pooling
from .decoding import Batch, Decoded, decode_batches
from .feature_files import Rows

NOT_FINITE = "the model's output has NaN or infinity in it; its weights are damaged, or too large for half precision"


class Extractor:
    """Computes the vectors of a batch of images, on the GPU if there is one.

    Args:
        features: a model that ends in vectors, made by `features_of`.
        half: compute in half precision, on a GPU.
    """

    def __init__(self, features: Model, half: bool) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.float16 if half else torch.float32
        self.size = features.output_shape[1] or 0
        if any(tensor.dtype != self.dtype or tensor.device != self.device for tensor in features.parameters()):
            features = copy.deepcopy(features).to(self.device, self.dtype)
        self.model = optimize_for_inference(features)

    @torch.no_grad()
    def __call__(self, batch: Decoded) -> Rows:
        errors = batch.errors.copy()
        vectors = np.full((len(batch.paths), self.size), np.nan, np.float32)
        if len(batch.pixels):
            pixels = torch.from_numpy(batch.pixels).to(self.device)
            x = preprocess(pixels.permute(0, 3, 1, 2).float(), batch.preprocessing)
            good = np.array([not error for error in batch.errors])
            vectors[good] = self.model(x.to(self.dtype)).float().cpu().numpy()
            for row in np.flatnonzero(good & ~np.isfinite(vectors).all(1)):
                vectors[row], errors[row] = np.nan, NOT_FINITE
        return Rows(batch.paths, vectors, errors)


def rows_here(
    batches: Sequence[Batch], decoder: Callable[[Batch], Decoded], compute: Extractor, workers: int | None, bar: Any
) -> Iterator[Rows]:
    """Yields the rows of the batches in order, decoded by worker processes, computed in this one."""
    for batch in decode_batches(batches, decoder, workers):
        yield compute(batch)
        bar.update(len(batch.paths))


def check_half(half: bool, ray: str | bool) -> None:
    """Raises a ValueError if half precision is wanted without a GPU; on Ray, `rows_on_ray` looks for one."""
    if half and not ray and not torch.cuda.is_available():
        raise ValueError("half: there is no GPU here, and on a CPU float32 is faster")


def features_of(model: Model, layer: str, pooling: str | None, size: tuple[int, int] | None = None) -> Model:
    """Makes a model of the layers up to `layer`, with the same tensors: images → vectors, `(N, size)`.

    The images are of `size`, by default the model's. Maps are pooled ("avg" or "max"), or with None flattened in Keras's order, `(H, W, C)`. So are flattened features.

    Raises:
        ValueError: there is no such layer or pooling.
    """
    model._check_names([layer])
    input_shape = (image_shape(model)[1], *(size or image_size(model)))
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    needed = {layer}
    nodes: list[Any] = []
    for node in reversed(model.nodes):
        if node.name in needed:
            needed |= {*node.inputs}
            nodes.insert(0, node[:3])
    layers = {own: copy.deepcopy(model.get_submodule(own), shared) for _, own, _ in nodes}
    inputs = dict.fromkeys(model.input_shapes, input_shape)
    features = Model(layers, inputs, model.name, nodes, layer)
    ending: dict[str, nn.Module] = {}
    if len(features.output_shape) > 2:
        ending = global_pooling(pooling) or {"features": Flatten(order="channels_last")}
    elif flattened := features._flattened_shape():
        ending = {"maps": nn.Unflatten(1, flattened), "features": Flatten(order="channels_last")}
    for name, child in ending.items():
        while name in layers:  # a layer of the model may be called so
            name += "_"
        layers[name] = child
        nodes.append((name, name, (nodes[-1][0],)))
    return Model(layers, inputs, model.name, nodes, nodes[-1][0]).eval()
