"""What was read → a `Network`: layers, their calls in order, their settings, and which array is which PyTorch tensor, in what layout.

`from_file` opens any file and asks `from_keras_model` (an architecture with arrays), `from_keras_weights` (arrays alone; `plain_layers` for any module),
`from_tensors` (PyTorch's), `from_onnx` (a chain of ONNX's nodes) or `vgg_base` (the VGG within). `architecture_json` validates an architecture; `unfolding` makes
a `graph` of it, every call of a layer in order (`call_order` sorts them, `calls` collects them, `masks` with those of sequences), with `operations` turned into layers (`tensorflow_nodes` reads those of older versions); `settings`
reads a layer's configuration, and `assemble` gives each layer its arrays, as its kind in `kinds` says: a `network`.
`keras_hub` lists the layers of KerasHub's models, `kernel_parts` joins kernels stored in parts (LoRA, int8), `weights_groups`
names a `.weights.h5`'s groups, `vgg_architecture` describes Keras's own networks. `naming_schemes` has the names and shapes
of torchvision's and timm's models.
"""
