"""Reads untrusted files safely: a path enters, names, arrays and JSON leave; nothing in a file is run.

`file_kind` says what a file or folder is. `keras_file` reads Keras's: `hdf5_process` starts `hdf5_reader` in a process of its own,
within the limits of `hdf5_limits`; `saved_model` reads TensorFlow's, whose arrays lie in a `tensor_bundle`, described by `protobuf`.
`architecture_file` reads an architecture that stands alone. `torch_file` reads PyTorch's: `torch_pickle` interprets pickles without running them.
`onnx_file` reads ONNX's graphs, also with `protobuf`. `archive` opens zips, and `strict_json` parses all JSON.
"""
