"""How much memory a function's intermediates take, from shapes alone.

The function is traced, never run, and its equations are walked in order with what is
alive at each. Elementwise chains count as fused: what one elementwise operation makes
for another alone is never stored, as XLA does it. Nothing else of a compiler's cunning
is counted.
"""

import collections
import dataclasses
import enum
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import jax
from jax.extend import core

# Other names for the same bytes.
_VIEWS = {"reshape", "squeeze", "expand_dims", "transpose", "stop_gradient", "copy"}
# So cheap that each reader makes its own.
_CHEAP = {"broadcast_in_dim", "convert_element_type", "iota", "neg"}
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_and", "argmax"}
# They write into an operand that nobody reads later.
_WRITES = {"scatter", "scatter-add", "dynamic_update_slice"}
# Results may be of the operands' shape, but are not made element by element.
_WHOLE = {"dot_general", "sort", "cumsum", "rev", "gather", *_WRITES}
_CALLS = {"jit", "closed_call", "remat2", "checkpoint", "shard_map"}
_CALLS |= {"custom_jvp_call", "custom_vjp_call"}
_LOOPS = {"scan", "while", "cond"}


class _Kind(enum.Enum):
    """How an operation's result comes about."""

    VIEW = enum.auto()
    CHEAP = enum.auto()
    ELEMENTWISE = enum.auto()
    REDUCTION = enum.auto()
    WRITE = enum.auto()
    WHOLE = enum.auto()


_FUSED = {_Kind.CHEAP, _Kind.ELEMENTWISE}


def live_bytes(function: Callable, *arguments) -> int:
    """Returns the most bytes of intermediates and results alive at once.

    The arguments themselves, which the caller holds, do not count.

    Args:
        function: of arrays, traceable by JAX.
        *arguments: arrays or `jax.ShapeDtypeStruct`, in trees.
    """
    return _peak(jax.make_jaxpr(function)(*arguments).jaxpr)


@dataclasses.dataclass(frozen=True)
class _Operation:
    """One equation: numbers of the arrays it reads, numbers and bytes of its own.

    inner_bytes: what it holds while it runs, for a loop.
    """

    kind: _Kind
    reads: tuple[int, ...]
    makes: dict[int, int]
    inner_bytes: int = 0


def _peak(jaxpr: core.Jaxpr) -> int:
    count = itertools.count()
    numbers = {v: next(count) for v in (*jaxpr.constvars, *jaxpr.invars)}
    operations = list(_operations(jaxpr, numbers, count))
    results = {numbers[v] for v in jaxpr.outvars if v in numbers}
    stored = _stored(operations, results)
    sources = _sources(operations, stored)
    end = len(operations)
    last_use = {source: end for result in results for source in sources(result)}
    for place in reversed(range(end)):
        if operations[place].makes.keys() & stored:
            for number in operations[place].reads:
                for source in sources(number):
                    last_use.setdefault(source, place)
    alive: dict[int, int] = {}
    most = 0
    for place, operation in enumerate(operations):
        made = {n: size for n, size in operation.makes.items() if n in stored}
        if not made:
            continue
        dying = {n for n in alive if last_use.get(n, place) <= place}
        kept = {n: size for n, size in alive.items() if n not in dying}
        is_in_place = operation.kind in _FUSED | {_Kind.WRITE}
        during = kept if is_in_place else alive
        held = sum(during.values()) + sum(made.values())
        most = max(most, held + operation.inner_bytes)
        unread = {n for n in made if n not in last_use}
        alive = kept | {n: size for n, size in made.items() if n not in unread}
    return most


def _operations(
    jaxpr: core.Jaxpr, numbers: dict[core.Var, int], count: Iterator[int]
) -> Iterator[_Operation]:
    """Yields the equations, those of a called function in place of the call.

    Args:
        jaxpr: to walk.
        numbers: of its inputs; filled with those of all its variables.
        count: gives the next number.
    """
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [getattr(j, "jaxpr", j) for j in core.jaxprs_in_params(equation.params)]
        if name in _CALLS:
            called = inner[0]
            inside = {v: next(count) for v in called.constvars}
            for outer, own in zip(equation.invars, called.invars, strict=True):
                is_literal = isinstance(outer, core.Literal)
                inside[own] = next(count) if is_literal else numbers[outer]
            yield from _operations(called, inside, count)
            for outer, own in zip(equation.outvars, called.outvars, strict=True):
                is_literal = isinstance(own, core.Literal)
                numbers[outer] = next(count) if is_literal else inside[own]
            continue
        makes = {next(count): _bytes(v.aval) for v in equation.outvars}
        numbers.update(zip(equation.outvars, makes, strict=True))
        yield _Operation(
            _kind(equation),
            tuple(numbers[v] for v in equation.invars if isinstance(v, core.Var)),
            makes,
            max(map(_peak, inner), default=0) if name in _LOOPS else 0,
        )


def _stored(operations: Iterable[_Operation], results: set[int]) -> set[int]:
    """Returns the numbers of the arrays that are written to memory."""
    readers = collections.defaultdict(list)
    for operation in operations:
        for number in operation.reads:
            readers[number].append(operation)

    def real_readers(number: int) -> Iterator[_Kind]:
        """Kinds of the operations that read it, through views too."""
        if number in results:
            yield _Kind.WHOLE
        for reader in readers[number]:
            if reader.kind is _Kind.VIEW:
                yield from real_readers(next(iter(reader.makes)))
            else:
                yield reader.kind

    def is_stored(operation: _Operation, number: int) -> bool:
        if operation.kind is _Kind.VIEW:
            return False
        if operation.kind not in _FUSED:
            return True
        kinds = list(real_readers(number))
        all_fuse = all(kind in _FUSED | {_Kind.REDUCTION} for kind in kinds)
        return not all_fuse or (len(kinds) > 1 and operation.kind is not _Kind.CHEAP)

    return {
        number
        for operation in operations
        for number in operation.makes
        if is_stored(operation, number)
    }


def _sources(
    operations: Iterable[_Operation], stored: set[int]
) -> Callable[[int], frozenset[int]]:
    """Returns what gives the stored arrays that an array is made of when read."""
    sources: dict[int, frozenset[int]] = {}
    for operation in operations:
        read = frozenset().union(*(sources.get(n, ()) for n in operation.reads))
        for number in operation.makes:
            sources[number] = frozenset((number,)) if number in stored else read
    return lambda number: sources.get(number, frozenset())


def _kind(equation: core.JaxprEqn) -> _Kind:
    name = equation.primitive.name
    for names, kind in (
        (_VIEWS, _Kind.VIEW),
        (_CHEAP, _Kind.CHEAP),
        (_REDUCTIONS, _Kind.REDUCTION),
        (_WRITES, _Kind.WRITE),
        (_WHOLE | _LOOPS, _Kind.WHOLE),
    ):
        if name in names:
            return kind
    operands = (*equation.invars, *equation.outvars)
    shapes = {v.aval.shape for v in operands if math.prod(v.aval.shape) > 1}
    # Random bits are made of a key where they are needed.
    is_elementwise = len(shapes) <= 1 or name == "random_bits"
    return _Kind.ELEMENTWISE if is_elementwise else _Kind.WHOLE


def _bytes(aval) -> int:
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended):
        return 0  # a key of random numbers
    return math.prod(aval.shape) * aval.dtype.itemsize
