"""The table of blocks, which the model and the conversion both read: VGG16 and VGG19."""

# (convolutions, filters) of each block: columns D and E of table 1 in arXiv 1409.1556. A 2×2 max pool ends every block.
BLOCKS = {
    "vgg16": ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)),
    "vgg19": ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)),
}
