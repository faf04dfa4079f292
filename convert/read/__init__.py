"""Untrusted files → names, arrays and JSON; nothing in them is run, and no other file is opened.

`keras_file` opens HDF5 and `.keras` files: `hdf5_process` starts `hdf5_reader` in a process of its own, where `hdf5_guard`
limits what is followed and unpacked. `archive` opens zips, `torch_file` `.safetensors` and `.pt`, whose pickle
`torch_pickle` interprets without running it. `strict_json` parses all JSON.
"""
