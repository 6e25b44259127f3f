"""TensorFlow and SeqIO, kept on the host: the one place that imports them.

TensorFlow would claim the memory of every GPU that JAX is to use, and print a page of
notices on the way. It reads questions here, which needs neither.
"""

import os

from art_jax.errors import require_package

# Read when TensorFlow's library loads; 3 leaves its fatal errors. JAX sets 1 where
# nobody set it, at which TensorFlow says that it found no GPU.
if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in (None, "1"):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

tf = require_package("tensorflow", purpose="Reading a SeqIO task")
tf.config.set_visible_devices([], "GPU")
seqio = require_package("seqio", purpose="Reading a SeqIO task")

__all__ = ["seqio", "tf"]
