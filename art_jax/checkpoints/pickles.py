"""Pickles as data: what a pickle holds, without making what it asks for.

A pickle is a program. This reads the instructions that build lists, dicts and plain
values, and nothing else: no class is looked up, no function of the file's choosing is
called, no module is imported. Where a pickle names a class or a function, the caller
says by the name alone what stands there: a `Record`, which only writes down what the
pickle gave it, or a `Builder`, a function of ours.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from art_jax.errors import CorruptError


@dataclasses.dataclass(eq=False)
class Record:
    """An object that was not made: its class by name, and what it was given.

    name: of the class or function, "argparse.Namespace".
    arguments: what it would have been called with.
    state: its attributes, mostly a dict; None: none were given.
    """

    name: str
    arguments: tuple = ()
    state: Any = None


@dataclasses.dataclass(frozen=True)
class Builder:
    """A function of ours that stands where a pickle names one.

    It raises ValueError for arguments that make no sense.
    """

    build: Callable[..., Any]


# Given "module.name": what stands there; None: the name is refused.
FindGlobal = Callable[[str], Any]


def read_pickle(
    file: BinaryIO,
    source: object,
    find_global: FindGlobal,
    find_persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """What a pickle holds: plain values, lists, tuples, dicts, records.

    Args:
        file: at the first byte of a pickle; left after its last. `read(n)` must not
            set aside n bytes that the file has not got.
        source: where the pickle is, for errors.
        find_global: what stands where the pickle names a class or function.
        find_persistent: what stands for a persistent id; None: there are none.

    Raises:
        CorruptError: the pickle is damaged, or asks for what `find_global` refuses.
    """
    machine = _Machine(source, find_global, find_persistent)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.run(opcode.name, argument)
    except (ValueError, TypeError, LookupError) as error:
        raise CorruptError(
            f"{source}: the pickle in it is damaged ({error!s:.200}): copy the file "
            "again from its source."
        ) from error
    raise CorruptError(
        f"{source}: the pickle in it has no end: copy the file again from its source."
    )


class _Machine:
    """The state of one reading: the stack, the stacks below marks, the memo."""

    def __init__(self, source, find_global, find_persistent):
        self.source = source
        self.find_global = find_global
        self.find_persistent = find_persistent
        self.stack: list = []
        self.below: list[list] = []
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Carries out one instruction."""
        if name in _CONSTANTS:
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _INSTRUCTIONS:
            _INSTRUCTIONS[name](self, argument)
        elif name not in _NOTHING:
            self.refuse(f"the instruction {name}")

    def refuse(self, what: str) -> None:
        raise CorruptError(
            f"{self.source}: the pickle in it asks for {what}, which no file of "
            "weights needs. It was not run: get the weights from a source you trust."
        )

    def mark(self, _) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self, _=None) -> list:
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self, _) -> None:
        # A mark is popped like a value.
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def duplicate(self, _) -> None:
        self.stack.append(self.stack[-1])

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def make_tuple(self, size: int | None = None) -> None:
        if size is None:
            items = self.pop_mark()
        else:
            items = [self.stack.pop() for _ in range(size)][::-1]
        self.stack.append(tuple(items))

    def make_list(self, _) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    def make_dict(self, _) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(items)

    def append(self, _) -> None:
        self.append_items([self.stack.pop()])

    def append_items(self, items: list | None) -> None:
        items = self.pop_mark() if items is None else items
        if type(self.stack[-1]) is not list:
            raise ValueError("an item is appended to what is no list")
        self.stack[-1].extend(items)

    def set_item(self, _) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def set_items(self, items: list | None) -> None:
        items = self.pop_mark() if items is None else items
        if type(self.stack[-1]) is not dict:
            raise ValueError("a key is set in what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # To hash a tuple in a tuple in a tuple ... overflows the C stack.
            if not isinstance(key, _KEYS):
                raise ValueError(f"a key of a dict is a {type(key).__name__}")
            self.stack[-1][key] = value

    def load_global(self, names: str) -> None:
        # pickletools joins a module and a name by a space.
        module, _, name = names.partition(" ")
        found = None
        if all(part.isidentifier() for part in (*module.split("."), name)):
            found = self.find_global(f"{module}.{name}")
        if found is None:
            self.refuse(f"{f'{module}.{name}'[:200]!r}")
        self.stack.append(found)

    def load_stack_global(self, _) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("the name of a class is no text")
        self.load_global(f"{module} {name}")

    def call(self, _) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple:
            raise ValueError("the arguments of a call are no tuple")
        if isinstance(function, Builder):
            self.stack.append(function.build(*arguments))
        elif isinstance(function, Record):
            self.stack.append(Record(function.name, arguments))
        else:
            raise ValueError("what is called is no function")

    def set_state(self, _) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif type(target) is not dict:
            raise ValueError("attributes are set of what has none")

    def load_persistent(self, _) -> None:
        if self.find_persistent is None:
            self.refuse("data outside the pickle")
        self.stack.append(self.find_persistent(self.stack.pop()))


_KEYS = (str, int, float, bytes, type(None))
_NOTHING = {"PROTO", "FRAME"}
_CONSTANTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
_NEW = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
# What is missing here is refused: INST and OBJ, which nothing writes since Python 3;
# EXT1 to EXT4, names by number; PERSID, sets and buffers.
_INSTRUCTIONS = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "TUPLE": _Machine.make_tuple,
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "LIST": _Machine.make_list,
    "DICT": _Machine.make_dict,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.load_global,
    "STACK_GLOBAL": _Machine.load_stack_global,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.set_state,
    "BINPERSID": _Machine.load_persistent,
}
