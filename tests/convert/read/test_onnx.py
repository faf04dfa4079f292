"""ONNX files: what tf2onnx and PyTorch write of Keras's layers, each operator against ONNX Runtime, and what is refused."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from torchvgg import VGG16, load_model
from torchvgg.convert import convert

from ...helpers.command_line import run
from ...helpers.hostile import Refused
from ...helpers.keras_models import relative_error

FILES = Path(__file__).parents[2] / "data" / "onnx"  # by data/make_onnx.py
TOLERANCE = 1e-5  # see test_vgg_parity
NAMES = {
    "sequential": "conv2d conv2d_1 max_pooling2d batch_normalization flatten dense batch_normalization_1 dense_1",
    "functional": "conv2d_2 conv2d_3 max_pooling2d_1 batch_normalization_2 flatten_1 dense_2 batch_normalization_3 dense_3",
    "open": "rescaling conv2d_4 leaky_re_lu average_pooling2d conv2d_5 global_average_pooling2d dense_4",
    "keras2": "zero_padding2d conv2d separable_conv2d separable_conv2d_ re_lu max_pooling2d global_max_pooling2d dense",
}


@pytest.mark.parametrize("name", NAMES)
def test_what_tf2onnx_writes_computes_what_keras_does(name: str, tmp_path: Path) -> None:
    saved = np.load(FILES / f"{name}.npz")
    model = load_model(FILES / f"{name}.onnx")
    assert " ".join(child for child, _ in model.named_children()) == NAMES[name]
    x = torch.from_numpy(saved["x"]).movedim(-1, 1)
    assert relative_error(model(x), torch.from_numpy(saved["y"])) < TOLERANCE
    report = convert(FILES / f"{name}.onnx", tmp_path / "x.safetensors")
    assert report.format == "ONNX"
    assert report.max_relative_error < TOLERANCE
    assert torch.equal(load_model(tmp_path / "x.safetensors")(x), model(x))


@pytest.mark.parametrize("name", ["sequential", "open"])
def test_what_pytorch_writes_of_it_is_read_again(name: str, tmp_path: Path) -> None:
    model = load_model(FILES / f"{name}.onnx")  # its flatten is channels-first
    x = torch.from_numpy(np.load(FILES / f"{name}.npz")["x"]).movedim(-1, 1).contiguous()
    torch.onnx.export(
        model, (x,), tmp_path / "x.onnx", dynamo=True, dynamic_shapes=({0: "n"},), external_data=False, verbose=False
    )
    again = load_model(tmp_path / "x.onnx")
    assert relative_error(again(x), model(x)) < TOLERANCE
    assert {key: w.shape for key, w in again.named_parameters()} == {
        key: w.shape for key, w in model.named_parameters()
    }


def test_kernels_that_a_node_transposes(tmp_path: Path) -> None:
    """As PyTorch 2.6 writes those of dense layers."""
    written = onnx.load(FILES / "sequential.onnx")
    for each in [each for each in written.graph.initializer if len(each.dims) == 2]:
        name = each.name
        each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each).T.copy(), f"{name}.t"))
        written.graph.node.insert(1, helper.make_node("Transpose", [each.name], [name], perm=[1, 0]))
    onnx.save(written, path := tmp_path / "x.onnx")
    expected = load_model(FILES / "sequential.onnx").state_dict()
    received = load_model(path).state_dict()
    assert received.keys() == expected.keys()
    assert all(torch.equal(received[key], tensor) for key, tensor in expected.items())


# --- a whole VGG ---

Change = Callable[[onnx.GraphProto], None]


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> tuple[VGG16, onnx.ModelProto]:
    """A VGG16 with random weights, and its ONNX file without a name that says anything."""
    torch.manual_seed(0)
    model = VGG16(weights=None, include_top=False, pooling="avg").eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0, 0.1)  # PyTorch leaves biases of zero out
    path = tmp_path_factory.mktemp("onnx") / "vgg.onnx"
    torch.onnx.export(model, (torch.zeros(1, 3, 64, 64),), path, dynamo=True, external_data=False, verbose=False)
    written = onnx.load(path)
    for tensor in written.graph.initializer:
        for node in written.graph.node:
            node.name = ""
            node.input[:] = [tensor.name.replace(".", "") if name == tensor.name else name for name in node.input]
        tensor.name = tensor.name.replace(".", "")
    return model, written


def test_the_convolutions_of_a_vgg_get_keras_s_names(vgg: tuple[VGG16, onnx.ModelProto], tmp_path: Path) -> None:
    model, written = vgg
    onnx.save(written, path := tmp_path / "x.onnx")
    loaded = load_model(path)
    assert isinstance(loaded, VGG16)
    assert loaded.input_shape == (None, 3, 64, 64)
    for mine in (loaded, VGG16(weights=path, include_top=False)):
        assert all(torch.equal(mine.state_dict()[key], tensor) for key, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="missing for vgg16: fc1"):
        VGG16(weights=path, input_shape=(3, 64, 64))


def test_numbers_that_are_attributes(vgg: tuple[VGG16, onnx.ModelProto], tmp_path: Path) -> None:
    """As PyTorch 2.6 writes the axes of a mean."""
    written = onnx.ModelProto()
    written.CopyFrom(vgg[1])
    for each in [each for each in written.graph.initializer if each.data_type == onnx.TensorProto.INT64]:
        written.graph.initializer.remove(each)
        name = each.name
        flat = onnx.helper.make_node("Reshape", [f"{name}.numbers", f"{name}.shape"], [name])
        numbers = {"numbers": numpy_helper.to_array(each).tolist(), "shape": [-1]}
        for node in (
            flat,
            *(onnx.helper.make_node("Constant", [], [f"{name}.{n}"], value_ints=v) for n, v in numbers.items()),
        ):
            written.graph.node.insert(0, node)
    assert "value_ints" in {attribute.name for node in written.graph.node for attribute in node.attribute}
    onnx.save(written, path := tmp_path / "x.onnx")
    x = torch.rand(1, 3, 64, 64)
    assert relative_error(load_model(path)(x), vgg[0](x)) < TOLERANCE


def other_head(graph: onnx.GraphProto) -> None:
    graph.node[-1].op_type = "GlobalLpPool"


def reversed_channels(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "bgr"))
    graph.node.insert(0, helper.make_node("Gather", [graph.input[0].name, "bgr"], ["reversed"], axis=1))
    graph.node[1].input[0] = "reversed"


def a_skip(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Concat", [graph.node[1].output[0]] * 2, ["skip"], axis=1))
    graph.output.append(helper.make_tensor_value_info("skip", 1, None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_head, r"\(GlobalLpPool\): an operator that can't be converted; the vgg16 in it .* --base-only"),
        (reversed_channels, r"\(Gather\): an operator that can't be converted; the vgg16 in it"),
        (a_skip, "1 inputs and 2 outputs; expected a chain; the vgg16 in it"),
    ],
)
def test_the_vgg_is_taken_out_of_another_network(
    change: Change, message: str, vgg: tuple[VGG16, onnx.ModelProto], tmp_path: Path
) -> None:
    model, written = vgg
    changed = onnx.ModelProto()
    changed.CopyFrom(written)
    change(changed.graph)
    onnx.save(changed, path := tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=message):
        load_model(path)
    assert run(path, "--base-only", "-o", tmp_path / "base.safetensors", "-q") == 0
    base = VGG16(weights=tmp_path / "base.safetensors", include_top=False)
    assert torch.equal(base.block5_conv3.weight, model.block5_conv3.weight)


# --- operators ---

Nodes = list[tuple[Any, ...]]  # operator, its tensors, its attributes


def write(path: Path, nodes: Nodes, shape: list[Any], opset: int = 17) -> onnx.ModelProto:
    """Writes a chain of nodes, each with these tensors after what the one before made."""
    made, tensors, name = [], [], "x"
    for number, (operator, arrays, attributes) in enumerate(nodes):
        names = [f"t{number}_{place}" for place in range(len(arrays))]
        tensors += [numpy_helper.from_array(array, own) for own, array in zip(names, arrays, strict=True)]
        made.append(helper.make_node(operator, [name, *names], [f"y{number}"], f"node{number}", **attributes))
        name = f"y{number}"
    ends = [helper.make_tensor_value_info(own, 1, size) for own, size in (("x", shape), (name, None))]
    graph = helper.make_graph(made, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return model


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(0.2, 1, shape).astype("f4")


def whole(*values: int) -> np.ndarray:
    return np.array(values, "i8")


NCHW: Any = ("Transpose", [], {"perm": [0, 3, 1, 2]})
NHWC: Any = ("Transpose", [], {"perm": [0, 2, 3, 1]})
CONV = numbers(4, 3, 3, 3)
POOL = {"kernel_shape": [3, 3], "strides": [2, 2]}
DENSE = numbers(4 * 9 * 8, 5)


@pytest.mark.parametrize(
    "nodes",
    [
        [NCHW, ("Conv", [CONV, numbers(4)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}), ("Relu", [], {}), NHWC],
        [NCHW, ("Conv", [CONV], {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]})],
        [NCHW, ("Conv", [CONV], {}), ("Add", [numbers(1, 4, 1, 1)], {}), ("Sigmoid", [], {}), ("Tanh", [], {})],
        [NCHW, ("Conv", [numbers(6, 1, 3, 3)], {"group": 3}), ("Elu", [], {"alpha": 0.5}), ("Elu", [], {})],
        [NCHW, ("MaxPool", [], {**POOL, "auto_pad": "SAME_UPPER"}), ("LeakyRelu", [], {"alpha": 0.1})],
        [NCHW, ("AveragePool", [], {**POOL, "pads": [1, 0, 1, 1]}), ("Softplus", [], {}), ("Softsign", [], {})],
        [NCHW, ("Pad", [whole(0, 0, 1, 2, 0, 0, 3, 4)], {}), ("GlobalMaxPool", [], {}), ("Squeeze", [whole(2, 3)], {})],
        [NCHW, ("GlobalAveragePool", [], {}), ("Flatten", [], {}), ("Gemm", [numbers(3, 5), numbers(5)], {})],
        [NCHW, ("GlobalAveragePool", [], {}), ("Reshape", [whole(0, -1)], {}), ("Gemm", [numbers(5, 3)], {"transB": 1})],
        [("ReduceMean", [], {"axes": [1, 2], "keepdims": 0}), ("MatMul", [numbers(3, 5)], {}), ("Softmax", [], {})],
        [NCHW, ("ReduceMax", [], {"axes": [-1, -2], "keepdims": 1})],
        [("ReduceMean", [], {"axes": [2, 1]}), ("Mul", [numbers(3)], {}), ("Squeeze", [whole(-2, 1)], {})],
        [("Sub", [np.float32([103.9])], {}), ("Div", [np.float32(58)], {}), ("Mul", [numbers(3)], {}), ("Add", [numbers(3)], {})],
        [NCHW, ("Sub", [numbers(3, 1, 1)], {}), ("Softmax", [], {"axis": 1}), NHWC, NCHW],
        [NCHW, ("BatchNormalization", [numbers(3), numbers(3), numbers(3), abs(numbers(3))], {"epsilon": 0.01})],
        [NCHW, ("Conv", [CONV], {"pads": [1] * 4}), NHWC, ("Flatten", [], {}), ("MatMul", [DENSE], {}), ("Add", [numbers(5)], {})],
        [NCHW, ("Conv", [CONV], {"pads": [1] * 4}), ("Flatten", [], {}), ("Mul", [DENSE[:, 0]], {}), ("MatMul", [DENSE], {})],
        [("Identity", [], {}), ("Dropout", [], {}), ("MatMul", [numbers(3, 5)], {}), ("Add", [numbers(5)], {}), ("Cast", [], {"to": 1})],
        [("Flatten", [], {}), ("MatMul", [numbers(216, 1)], {}), ("Add", [numbers(1)], {})],
        [NCHW, ("Conv", [CONV.astype("f8").astype("f4"), numbers(4)], {}), ("Relu", [], {}), ("Mul", [np.float32(2)], {})],
    ],
    ids=lambda nodes: " ".join(operator for operator, *_ in nodes),
)  # fmt: skip
def test_operators_compute_what_they_do_in_onnx_runtime(nodes: Nodes, tmp_path: Path) -> None:
    write(path := tmp_path / "x.onnx", nodes, ["n", 9, 8, 3])
    x = numbers(2, 9, 8, 3)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    y = load_model(path)(torch.from_numpy(x).movedim(-1, 1)).detach()
    is_last = expected.ndim == 4 and (nodes[0] != NCHW or nodes[-1] == NHWC)
    y = y.movedim(1, -1) if is_last else y
    assert relative_error(y, torch.from_numpy(expected)) < TOLERANCE
    convert(path, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([NCHW, ("Mish", [], {})], r"'node1' \(Mish\): an operator that can't be converted"),
        ([("Transpose", [], {"perm": [0, 2, 1, 3]})], r"perm=\[0, 2, 1, 3\] of N..."),
        ([("Transpose", [], {})], "perm=None"),
        ([NCHW, ("Conv", [numbers(4, 3, 3)], {})], "a kernel of 3 axes"),
        ([NCHW, ("Conv", [whole(1)], {})], "'t1_0' is no tensor of numbers"),
        ([NCHW, ("Conv", [CONV], {"auto_pad": "SAME_LOWER"})], "auto_pad=SAME_LOWER can't be converted"),
        ([NCHW, ("Conv", [CONV], {"strides": 2})], "'strides' is of another type"),
        ([NCHW, ("Conv", [CONV], {"strides": [0, 1]})], "pads="),
        ([NCHW, ("MaxPool", [], {**POOL, "ceil_mode": 1})], "ceil_mode"),
        ([NCHW, ("AveragePool", [], {**POOL, "auto_pad": "SAME_UPPER", "count_include_pad": 1})], "count_include_pad"),
        ([NCHW, ("Softmax", [], {"axis": 2})], "axis=2 can't be converted, only the channels'"),
        ([NCHW, ("Flatten", [], {})], "flattened channels-first and don't go into a dense layer"),
        ([("Flatten", [], {}), ("MatMul", [numbers(5, 5)], {})], "216 features come, and the matrix takes 5"),
        ([("Flatten", [], {"axis": 2})], "only a flatten of each image"),
        ([("Reshape", [whole(-1, 72, 3)], {})], r"a reshape to \[-1, 72, 3\] can't be converted"),
        ([("Reshape", [whole(-1, 3)], {})], r"a reshape to \[-1, 3\] can't be converted"),
        ([("Squeeze", [whole(1, 2)], {})], "an image of"),
        ([("ReduceMean", [], {"axes": [1, 3]})], "only a mean or maximum over whole images"),
        ([NCHW, ("Pad", [whole(0, 1, 1, 2, 0, 0, 3, 4)], {})], "only zeros around images"),
        ([NCHW, ("Mul", [numbers(1, 1, 9, 8)], {})], "only one number for each channel"),
        ([NCHW, ("Cast", [], {"to": 7})], r"\(Cast\): an operator that can't be converted"),
        ([NCHW, ("BatchNormalization", [numbers(3)] * 4, {"training_mode": 1})], "with the statistics in the file"),
        ([NCHW, ("Conv", [], {})], "inputs or outputs are missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_graphs_are_refused(nodes: Nodes, message: str, tmp_path: Path, check_refused: Refused) -> None:
    write(path := tmp_path / "x.onnx", nodes, ["n", 9, 8, 3])
    check_refused(path, message, load_model)


# --- damaged and hostile files ---


def outside(model: onnx.ModelProto) -> None:
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "/etc/passwd")
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def large(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**40, 2**40]


def negative(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-1, 4]


def many(model: onnx.ModelProto) -> None:
    model.graph.node.extend([onnx.NodeProto()] * 10_001)


def doubled(model: onnx.ModelProto) -> None:
    """A shape that would be 2**60 numbers long."""
    names = [f"s{number}" for number in range(61)]
    model.graph.node.append(helper.make_node("Shape", ["x"], ["s0"]))
    model.graph.node.extend(helper.make_node("Concat", [a, a], [b], axis=0) for a, b in pairwise(names))
    model.graph.node.append(helper.make_node("Reshape", ["y1", "s60"], ["end"]))
    model.graph.output[0].name = "end"


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("z", 1, [1]))


def flat_input(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[2:]


def text(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(
        onnx.TensorProto(name="t1_0", data_type=onnx.TensorProto.STRING, dims=[1], string_data=[b"a"])
    )


def branched(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Add", ["y1", "y0"], ["end"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (outside, "its numbers are in another file"),
        (large, "numbers are declared, and 432 bytes stored"),
        (negative, "a tensor of shape"),
        (many, "more than 10,000 nodes"),
        (doubled, "a reshape to"),
        (two_inputs, "2 inputs and 1 outputs; expected a chain"),
        (flat_input, "expected images, an input of 4 axes"),
        (text, "it isn't fed by the node before and numbers in the file alone"),
        (branched, r"\(Add\): it isn't fed by the node before and numbers in the file alone"),
    ],
)
def test_hostile_files_are_refused(
    change: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path, check_refused: Refused
) -> None:
    model = write(path := tmp_path / "x.onnx", [NCHW, ("Conv", [CONV], {})], ["n", 9, 8, 3])
    change(model)
    path.write_bytes(model.SerializeToString())
    check_refused(path, message, load_model)


@pytest.mark.parametrize("kind", ["raw", "listed", "half", "half listed", "bfloat16", "double"])
def test_numbers_are_read_however_they_are_stored(kind: str, tmp_path: Path) -> None:
    model = write(path := tmp_path / "x.onnx", [NCHW, ("Conv", [CONV], {})], ["n", 9, 8, 3])
    types = {"half": 10, "half listed": 10, "bfloat16": 16, "double": 11}
    kernel = CONV.astype("f2").astype("f4") if "half" in kind else torch.from_numpy(CONV).bfloat16().float().numpy()
    values = kernel.ravel()
    if kind in ("raw", "half"):
        tensor = numpy_helper.from_array(kernel.astype("f2" if kind == "half" else "f4"), "t1_0")
    else:
        tensor = helper.make_tensor("t1_0", types.get(kind, 1), kernel.shape, values)
    model.graph.initializer[0].CopyFrom(tensor)
    onnx.save(model, path)
    assert np.array_equal(load_model(path).conv2d.weight.detach().float().numpy(), kernel)
