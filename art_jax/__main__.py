"""`python -m art_jax` is `art-jax`."""

import sys

from art_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
