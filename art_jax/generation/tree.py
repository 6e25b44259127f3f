"""Sets of choices out of a model that makes them one after the other.

`pick_sequence` takes the best choice each time; `pick_tree` grows a tree, and so takes
several choices of one step where the model sees little reason to go on to the next.
Nothing is picked twice.

Source: Min et al., arXiv:2104.08445, algorithm 1.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from art_jax.errors import ConfigError
from art_jax.generation.steps import State, StepFn

LENGTH_PENALTIES = ("multiply", "divide")


@dataclasses.dataclass(frozen=True)
class TreeRules:
    """How a tree grows; what is silent in the paper is a choice here.

    A child at depth y is worth its log-likelihood given its ancestors, times or divided
    by ((5 + y) / 6) ** beta. Log-likelihoods are negative: what multiplies them makes
    deep children worse, and the tree wider.

    Attributes:
        beta: of the length penalty; 0: none. The paper tunes it: 1.5 to 3.
        length_penalty: "multiply", as algorithm 1 is printed, or "divide", as Wu et
            al. have it, whom the paper cites.
        max_nodes: M, nodes whose children are looked at, the root among them: a pick
            that is in another branch already makes a node and no new choice, and
            nothing bounds how many such the algorithm makes. Once so many were looked
            at, what was picked before is passed over. None: 4 k.

    Raises:
        ConfigError: a field is out of range.
    """

    beta: float = 2.0
    length_penalty: str = "multiply"
    max_nodes: int | None = None

    def __post_init__(self):
        if self.length_penalty not in LENGTH_PENALTIES:
            raise ConfigError(
                f"TreeRules.length_penalty is {self.length_penalty!r}: it must be one "
                f"of {', '.join(LENGTH_PENALTIES)}."
            )
        if self.max_nodes is not None and self.max_nodes < 1:
            raise ConfigError(
                f"TreeRules.max_nodes is {self.max_nodes}: it must be at least 1."
            )

    def factors(self, max_depth: int) -> np.ndarray:
        """Returns what multiplies log-likelihoods at depths 1 to max_depth, float32."""
        depths = np.arange(1, max_depth + 1)
        sign = 1 if self.length_penalty == "multiply" else -1
        return (((5 + depths) / 6) ** (sign * self.beta)).astype(np.float32)


@flax.struct.dataclass
class Picks:
    """What was picked for each question, in the order in which it was.

    choices: [B, k] int32, numbers of choices; -1 where there are fewer.
    scores: [B, k] float32, what each was worth when picked; -inf where there is none.
    depth: [B] int32, of the deepest pick; 1 where each was picked first of all.
    nodes: [B] int32, nodes of the tree, the root left out; more than the choices where
        several branches pick the same.
    """

    choices: jax.Array
    scores: jax.Array
    depth: jax.Array
    nodes: jax.Array


def pick_sequence(
    step: StepFn,
    state: State,
    start_tokens: jax.Array,
    choices: jax.Array,
    where: jax.Array,
    *,
    k: int,
) -> Picks:
    """Returns the likeliest choice each time, none twice: SeqDecode.

    For use under jit. Of equal choices the first is taken; a question depends on no
    other.

    Args:
        step: the model, called k times with B rows.
        state: of B rows, before the first token.
        start_tokens: [B] int32, read first.
        choices: [B, C] int32, the token of each choice.
        where: [B, C] bool, False where there is no choice.
        k: picks a question.
    """

    def pick(carry, _):
        state, tokens, is_left = carry
        logits, state = step(state, tokens)
        gains = _log_likelihoods(logits, choices, where, over_vocabulary=False)
        best, score = _best(jnp.where(is_left, gains, -jnp.inf))
        is_left &= ~jax.nn.one_hot(best, choices.shape[1], dtype=jnp.bool_)
        # Where nothing is left the token is of no matter.
        return (state, _take(choices, best), is_left), (best, score)

    start = state, start_tokens.astype(jnp.int32), where
    _, (picked, scores) = jax.lax.scan(pick, start, length=k)
    picked, scores = picked.T, scores.T
    picked = jnp.where(scores == -jnp.inf, -1, picked)
    count = (picked >= 0).sum(axis=1).astype(jnp.int32)
    return Picks(picked, scores, depth=count, nodes=count)


@flax.struct.dataclass
class _Tree:
    """What the loop carries; a node's number is the turn in which it was looked at.

    turn: [] int32, nodes looked at so far.
    states: the model's, of each node, [B, M, ...].
    gains: [B, M, C] float32, log-likelihoods of the children that may be added; -inf
        where one is in the tree, repeats an ancestor, or is no choice.
    ancestors: [B, M, C] bool, the choices on the way to each node, its own included.
    depths: [B, M] int32, of each node.
    parents: [B] int32, of the node to look at next.
    last: [B] int32, the token that it reads.
    is_picked: [B, C] bool.
    picks: so far.
    is_done: [B] bool.
    """

    turn: jax.Array
    states: State
    gains: jax.Array
    ancestors: jax.Array
    depths: jax.Array
    parents: jax.Array
    last: jax.Array
    is_picked: jax.Array
    picks: Picks
    is_done: jax.Array


def pick_tree(
    step: StepFn,
    state: State,
    start_tokens: jax.Array,
    choices: jax.Array,
    where: jax.Array,
    rules: TreeRules,
    *,
    k: int,
    over_vocabulary: bool = False,
) -> Picks:
    """Returns the choices in a tree that grows by its best child each time: TreeDecode.

    For use under jit. It ends when k choices, or all there are, are in the tree. A
    choice that comes again in another branch adds a node, in whose children nothing of
    its own branch is repeated, and no choice. Each node's children are looked at once,
    with what the model kept of its parent; those of the last not at all, so the model
    is called at most as often as the tree of some question has nodes. Of equal children
    the one of the older node, then the first, is taken.

    Args:
        step: the model, called with B rows, one node of each question at a time.
        state: of B rows, before the first token.
        start_tokens: [B] int32, read first.
        choices: [B, C] int32, the token of each choice.
        where: [B, C] bool, False where there is no choice.
        rules: of the tree.
        k: choices a question.
        over_vocabulary: a likelihood is a share of all tokens'; else of the choices'.
    """
    questions, num_choices = choices.shape
    max_nodes = rules.max_nodes or 4 * k
    factors = jnp.asarray(rules.factors(max_nodes))
    target = jnp.minimum(k, where.sum(axis=1))

    def look_at_node(tree: _Tree) -> _Tree:
        """Calls the model for the node to look at: its children can be added."""
        at_root = tree.turn == 0
        own = jax.tree.map(
            lambda first, nodes: jnp.where(at_root, first, _of_node(nodes, tree)),
            state,
            tree.states,
        )
        logits, own = step(own, tree.last)
        gains = _log_likelihoods(
            logits, choices, where, over_vocabulary=over_vocabulary
        )
        repeats = jax.lax.dynamic_index_in_dim(tree.ancestors, tree.turn, 1, False)
        gains = jnp.where(repeats, -jnp.inf, gains)
        return tree.replace(
            turn=tree.turn + 1,
            states=jax.tree.map(
                lambda nodes, new: nodes.at[:, tree.turn].set(new), tree.states, own
            ),
            gains=tree.gains.at[:, tree.turn].set(gains),
        )

    def add_child(tree: _Tree) -> _Tree:
        """Adds each question's best child to its tree."""
        # No more nodes are looked at: what is picked already would lead nowhere.
        is_full = tree.turn >= max_nodes
        worth = tree.gains * factors[tree.depths][..., None]
        worth = jnp.where(is_full & tree.is_picked[:, None], -jnp.inf, worth)
        places, scores = _best(worth.reshape(questions, -1))
        parents, chosen = places // num_choices, places % num_choices
        is_added = ~tree.is_done & (scores != -jnp.inf)
        is_new = is_added & ~_take(tree.is_picked, chosen)
        child = jax.nn.one_hot(chosen, num_choices, dtype=jnp.bool_)
        here = jax.nn.one_hot(places, max_nodes * num_choices, dtype=jnp.bool_)
        depth = _take(tree.depths, parents) + 1
        count = tree.is_picked.sum(axis=1)
        slot = jax.nn.one_hot(count, k, dtype=jnp.bool_) & is_new[:, None]
        picks = Picks(
            choices=jnp.where(slot, chosen[:, None], tree.picks.choices),
            scores=jnp.where(slot, scores[:, None], tree.picks.scores),
            depth=jnp.where(
                is_added, jnp.maximum(tree.picks.depth, depth), tree.picks.depth
            ),
            nodes=tree.picks.nodes + is_added.astype(jnp.int32),
        )
        is_picked = tree.is_picked | (child & is_new[:, None])
        ancestors = _of_node(tree.ancestors, tree, parents) | child
        return tree.replace(
            gains=jnp.where(here.reshape(tree.gains.shape), -jnp.inf, tree.gains),
            # Of the node to look at next; a write past the end is dropped.
            ancestors=tree.ancestors.at[:, tree.turn].set(ancestors),
            depths=tree.depths.at[:, tree.turn].set(depth),
            parents=parents,
            last=_take(choices, chosen),
            is_picked=is_picked,
            picks=picks,
            is_done=tree.is_done | ~is_added | (is_picked.sum(axis=1) >= target),
        )

    def grow(tree: _Tree) -> _Tree:
        return add_child(
            jax.lax.cond(tree.turn < max_nodes, look_at_node, lambda same: same, tree)
        )

    shape = questions, max_nodes
    start = _Tree(
        turn=jnp.int32(0),
        states=jax.tree.map(
            lambda leaf: jnp.zeros((*shape, *leaf.shape[1:]), leaf.dtype), state
        ),
        gains=jnp.full((*shape, num_choices), -jnp.inf),
        ancestors=jnp.zeros((*shape, num_choices), bool),
        depths=jnp.zeros(shape, jnp.int32),
        parents=jnp.zeros(questions, jnp.int32),
        last=start_tokens.astype(jnp.int32),
        is_picked=jnp.zeros_like(where),
        picks=Picks(
            choices=jnp.full((questions, k), -1, jnp.int32),
            scores=jnp.full((questions, k), -jnp.inf),
            depth=jnp.zeros(questions, jnp.int32),
            nodes=jnp.zeros(questions, jnp.int32),
        ),
        is_done=target == 0,
    )
    return jax.lax.while_loop(lambda tree: ~jnp.all(tree.is_done), grow, start).picks


def _log_likelihoods(
    logits: jax.Array, choices: jax.Array, where: jax.Array, *, over_vocabulary: bool
) -> jax.Array:
    """Log-likelihoods of choices, [B, C] float32; -inf where there is none."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, choices, axis=1)
    chosen = jnp.where(where, chosen, -jnp.inf)
    pool = logits if over_vocabulary else chosen
    total = jax.nn.logsumexp(pool, axis=1, keepdims=True)
    return jnp.where(where, chosen - total, -jnp.inf)


def _best(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The place of each row's highest value, [B] int32, the first of equals, and it."""
    return jnp.argmax(values, axis=1).astype(jnp.int32), jnp.max(values, axis=1)


def _take(values: jax.Array, places: jax.Array) -> jax.Array:
    """One value of each row: values [B, n], places [B]; [B]."""
    return jnp.take_along_axis(values, places[:, None], axis=1)[:, 0]


def _of_node(values: jax.Array, tree: _Tree, nodes: jax.Array | None = None):
    """What one node of each question has, [B, ...], of values [B, M, ...].

    Batched, so that devices that hold other questions are not asked.
    """
    nodes = tree.parents if nodes is None else nodes
    return jax.vmap(lambda each, node: each[node])(values, nodes)
