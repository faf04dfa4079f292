"""A `Network` → a file: `checked` writes it whole or not at all and checks it.

`pytorch` writes `.safetensors` and `.pt`, `keras` the way back; `naming_schemes` has torchvision's and timm's names.
"""
