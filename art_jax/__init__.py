"""art_jax: dense passage retrievers trained from questions alone, in JAX.

Importing this package imports neither JAX nor TensorFlow.
"""

__version__ = "0.1.0"
