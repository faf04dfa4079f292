"""What was read → a `Network`: layers in order, their settings, and which array is which PyTorch tensor."""
