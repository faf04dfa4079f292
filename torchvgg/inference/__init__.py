"""A model → a frozen copy with the same outputs, faster: `optimize_for_inference`.

`optimized_model` has the copy, `fast_layers` chooses and has its layers, and the features that pass between them; `winograd` has the algorithm
and the convolution in PyTorch's operators; `native` builds and calls its C++ kernels, `winograd.cpp`.
"""

from .optimized_model import OptimizedModel, optimize_for_inference

__all__ = ["OptimizedModel", "optimize_for_inference"]
