"""Whether a parameter tree fits a model."""

import jax

from art_jax.errors import CorruptError
from art_jax.types import Params


def require_shapes(params: Params, expected: Params, source: object) -> None:
    """Checks that a tree has the parameters of a model, in their shapes.

    Args:
        params: nested dicts of arrays.
        expected: the model's tree, as `jax.eval_shape` of its `init` gives it.
        source: where `params` came from, for the error.

    Raises:
        CorruptError: a parameter is missing, left over or of another shape; the
            message counts them and names the first by its path.
    """
    got, want = shapes_by_path(params), shapes_by_path(expected)
    wrong = sorted(
        path for path in got.keys() | want.keys() if got.get(path) != want.get(path)
    )
    if wrong:
        path = wrong[0]
        raise CorruptError(
            f"{source}: {len(wrong)} parameters do not fit the model; the first is "
            f"{path!r}: {got.get(path, 'missing')} in the file, "
            f"{want.get(path, 'not a parameter')} in the model. The checkpoint is of "
            "another model or another size: use the configuration it was made with."
        )


def shapes_by_path(params: Params) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a tree, by its path, parts joined by "/"."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {
        "/".join(str(entry.key) for entry in path): tuple(leaf.shape)
        for path, leaf in leaves
    }
