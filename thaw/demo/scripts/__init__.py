"""Programs of their own, started by path: plain Keras, and nothing of Thaw's is imported."""
