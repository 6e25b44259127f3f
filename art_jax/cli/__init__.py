"""One module a verb of `art-jax`; what gin configures."""
