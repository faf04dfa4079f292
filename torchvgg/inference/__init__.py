"""Fast inference on a CPU: `optimize_for_inference` turns a model into a twin with the same outputs.

`optimized_model` is the twin; `fast_layers` its layers, and what goes from one to the next; `winograd` the algorithm, with the
convolution in PyTorch's operators; `native` builds and calls the same in C++, `winograd.cpp`.
"""

from .optimized_model import OptimizedModel, optimize_for_inference

__all__ = ["OptimizedModel", "optimize_for_inference"]
