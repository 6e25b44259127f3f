"""How much a compiled program sends between devices, read from its text.

`jax.jit(f).lower(...).compile().as_text()` is what one of the devices runs, whether
they are real or made by `jax_num_cpu_devices`: shapes alone are needed, no memory.
"""

import collections
import math
import re
from collections.abc import Mapping

# What a device sends, as a multiple of the bytes of its result, among n devices that
# pass data on in a ring; a ring sends the least there is to send.
_SENT = {
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
    "collective-broadcast": lambda n: 1,
}
_COMPUTATION = re.compile(r"(?:ENTRY )?%?(\S+) \(.*\) -> .* \{")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_SENT)})(-start)?\(")
_CALLED = re.compile(
    r"(?:to_apply|calls|body|condition|true_computation|false_computation|"
    r"branch_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"([a-z]+)(\d*)[a-z0-9]*\[([\d,]*)\]")


def sent_bytes(program: str) -> dict[str, int]:
    """Returns the bytes that one device sends in a run, by kind of collective.

    A loop counts as often as it turns, one whose turns are not known in advance once;
    of the branches of a condition all count.

    Args:
        program: the text of a compiled program, for one device of several.

    Raises:
        ValueError: a collective is in two parts, start and done, as programs of GPUs
            and TPUs have them: compile for CPU devices.
    """
    bodies, entry = _computations(program)
    devices = re.search(r"num_partitions=(\d+)", program)
    num_devices = int(devices[1]) if devices else 1
    totals: dict[str, Mapping[str, float]] = {}

    def total(name: str) -> Mapping[str, float]:
        if name not in totals:
            sent = collections.Counter()
            for line in bodies.get(name, ()):
                sent.update(_sent_by(line, num_devices))
                turns = _TURNS.search(line)
                for called in _called(line):
                    for kind, count in total(called).items():
                        sent[kind] += count * int(turns[1] if turns else 1)
            totals[name] = sent
        return totals[name]

    return {kind: round(count) for kind, count in sorted(total(entry).items())}


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of each computation by its name, and the first one's name."""
    bodies, lines, entry = {}, [], ""
    for line in program.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            lines = bodies[start[1]] = []
            if line.startswith("ENTRY"):
                entry = start[1]
        else:
            lines.append(line)
    return bodies, entry


def _called(line: str) -> list[str]:
    return [
        name
        for names in _CALLED.findall(line)
        for name in re.findall(r"[\w.\-]+", names)
    ]


def _sent_by(line: str, num_devices: int) -> dict[str, float]:
    found = _COLLECTIVE.search(line)
    if not found:
        return {}
    result, kind, start = found.groups()
    if start:
        raise ValueError(
            f"{kind}-start: the program is of a backend that sends while it computes; "
            "compile it for CPU devices (jax_num_cpu_devices)."
        )
    return {kind: _num_bytes(result) * _SENT[kind](_group_size(line, num_devices))}


def _num_bytes(result: str) -> int:
    """Returns the bytes of a type such as `(f32[2,3]{1,0}, pred[])`."""
    total = 0
    for name, bits, sizes in _SHAPE.findall(result):
        item = 1 if name == "pred" else int(bits) / 8
        total += item * math.prod(int(size) for size in sizes.split(",") if size)
    return math.ceil(total)


def _group_size(line: str, num_devices: int) -> int:
    """Returns how many devices take part together, in any of XLA's notations."""
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", found[2]))
    return num_devices
