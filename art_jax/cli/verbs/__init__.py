"""The options of each verb of `art-jax`, as argparse needs them, and nothing more."""
