"""Writes files: a network enters; a file in one of the forms leaves, whole or not at all.

`write_checked` chooses the form and has the result checked. `pytorch` writes `.safetensors` and `.pt`, `keras` the files for
Keras.
"""
