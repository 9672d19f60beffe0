"""Runs the instructions of a pickle without being able to run anything else.

`pickletools.genops` cuts the stream into instructions. Each one known here moves plain values
between a stack and a memo; a class or function is a `Global`, which is its name and nothing more.
No instruction imports, looks anything up, sets an attribute or calls what is in the file: a call is
a row of `duet.increments.door.rebuild.REBUILDS`, an object is a `Stub`. Everything that is made is
paid for from a budget, so that a short file can neither fill the memory nor take long.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from pickletools import genops
from types import MappingProxyType
from typing import Any, BinaryIO

from duet.increments.door.known import OBJECTS, SETTINGS, STORAGES, VALUES
from duet.increments.door.rebuild import REBUILDS, NumberType, key_of
from duet.increments.door.values import Budget, DamagedError, Global, RefusedError, Stub, told

STEP = 48
"""Bytes charged for an instruction: they bound the time, too."""

ITEM = 100
"""Bytes charged for a place in a dict, a set or the memo."""

LONGEST_NUMBER = 256
"""Bits of a whole number; longer ones are slow to print and no number of a detector."""

OpenStorage = Callable[[str, str, int], Any]
"""``open_storage(key, dtype, count)`` returns a `duet.increments.door.rebuild.Storage`."""

_MODULES = MappingProxyType({"__builtin__": "builtins", "copy_reg": "copyreg"})
"""Names of Python 2, which torch's protocol still writes."""


class Machine:
    """One pickle's stack and memo.

    Args:
        open_storage: Hands out the numbers behind tensors.
        budget: What the data may cost.
    """

    def __init__(self, open_storage: OpenStorage, budget: Budget) -> None:
        self._open_storage, self._budget = open_storage, budget
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: BinaryIO) -> Any:
        """Return the value that the pickle describes; the stream is left behind its end.

        Raises:
            RefusedError: It wants something that is no data.
            DamagedError: It is no whole pickle.
        """
        spend, plain, steps = self._budget.spend, _PLAIN, _STEPS
        for opcode, argument, _ in genops(stream):
            spend(STEP)
            name = opcode.name
            if name in plain:
                self._push(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in steps:
                steps[name](self, argument)
            elif name == "STOP":
                return self._pop()
            elif name not in _NOTHING:
                raise RefusedError(
                    f"the file uses the instruction {name}, which weights do not need"
                )
        raise DamagedError("the pickle has no end")

    def _push(self, value: Any) -> None:
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise DamagedError("text with halves of characters") from None
        if isinstance(value, int) and value.bit_length() > LONGEST_NUMBER:
            raise DamagedError(told(value))
        if isinstance(value, (str, bytes)):
            self._budget.spend(sys.getsizeof(value))
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            raise DamagedError("an instruction finds nothing to work on")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise DamagedError("an instruction finds nothing to work on")
        return self._stack[-1]

    def _last(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise DamagedError("an instruction finds no mark")
        found, self._stack = self._stack, self._marks.pop()
        return found

    # ---- one method for each kind of instruction; `_STEPS` names them -------------------------

    def _mark(self, _: object) -> None:
        self._marks.append(self._stack)
        self._stack = []
        self._budget.spend(STEP)

    def _drop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _drop_marked(self, _: object) -> None:
        self._since_mark()

    def _repeat(self, _: object) -> None:
        self._stack.append(self._top())

    def _put(self, index: int | None) -> None:
        self._budget.spend(ITEM)
        self._memo[len(self._memo) if index is None else int(index)] = self._top()

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise DamagedError("an instruction finds nothing in the memo")
        self._stack.append(self._memo[index])

    def _new(self, kind: type) -> None:
        self._budget.spend(2 * ITEM)
        self._stack.append(kind())

    def _tuple(self, count: int | None) -> None:
        items = self._since_mark() if count is None else self._last(count)
        self._budget.spend(STEP + 8 * len(items))
        self._stack.append(tuple(items))

    def _list(self, _: object) -> None:
        self._stack.append(self._since_mark())

    def _dict(self, _: object) -> None:
        self._into_dict({}, self._since_mark())

    def _append(self, _: object) -> None:
        self._extend([self._pop()])

    def _appends(self, _: object) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise DamagedError(f"{told(target)} is no list to add to")
        self._budget.spend(16 * len(items))
        target.extend(items)

    def _set_item(self, _: object) -> None:
        value, key = self._pop(), self._pop()
        self._into_dict(self._pop(), [key, value])

    def _set_items(self, _: object) -> None:
        items = self._since_mark()
        self._into_dict(self._pop(), items)

    def _into_dict(self, target: Any, items: list[Any]) -> None:
        if type(target) is not dict or len(items) % 2:
            raise DamagedError(f"{told(target)} gets {len(items)} keys and values")
        self._budget.spend(ITEM * len(items) // 2)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key_of(key)] = value
        self._stack.append(target)

    def _add_items(self, _: object) -> None:
        items = self._since_mark()
        target = self._top()
        if type(target) is not set:
            raise DamagedError(f"{told(target)} is no set to add to")
        self._budget.spend(ITEM * len(items))
        target.update(map(key_of, items))

    def _frozen_set(self, _: object) -> None:
        items = self._since_mark()
        self._budget.spend(ITEM * (2 + len(items)))
        self._stack.append(frozenset(map(key_of, items)))

    def _global(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self._name(module, name)

    def _stack_global(self, _: object) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise DamagedError("a class or function whose name is no text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        path = f"{_MODULES.get(module, module)}.{name}"
        if path not in OBJECTS and path not in REBUILDS and path not in VALUES:
            raise RefusedError(
                f"the file wants to call {told(path)}, which is not on the list of known model "
                "classes"
            )
        self._stack.append(Global(path))

    def _call(self, _: object) -> None:
        arguments, called = self._pop(), self._pop()
        if not isinstance(called, Global) or type(arguments) is not tuple:
            raise RefusedError(f"the file wants to call {told(called)}")
        if called.path not in REBUILDS:
            raise RefusedError(
                f"the file wants to call {called.path} with arguments: weights do not need that"
            )
        copied = sum(len(one) for one in arguments if isinstance(one, (list, tuple, str, bytes)))
        self._budget.spend(10 * STEP + ITEM * copied)
        try:
            self._stack.append(REBUILDS[called.path](*arguments))
        except (TypeError, struct.error, UnicodeError) as error:
            raise DamagedError(f"{called.path} with other arguments: {told(str(error))}") from None

    def _object(self, _: object) -> None:
        arguments, made = self._pop(), self._pop()
        known = isinstance(made, Global) and made.path in OBJECTS
        if not known or not (made.path in SETTINGS or _is_nothing(arguments)):
            raise RefusedError(f"the file wants to make an object of {told(made)} with arguments")
        self._budget.spend(2 * ITEM)
        self._stack.append(Stub(made.path))

    def _build(self, _: object) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, NumberType):
            if type(state) is tuple and len(state) > 1 and told(state[1]) == ">":
                raise RefusedError("numbers of a big-endian machine")
        elif isinstance(target, Stub):
            if target.state or not (target.path == "numpy.ndarray" or type(state) is dict):
                raise DamagedError(f"{told(target)} is given {told(state)} as its attributes")
            state = state if isinstance(state, dict) else {"content": state}
            if any(not isinstance(name, str) for name in state):
                raise DamagedError(f"{told(target)} has an attribute whose name is no text")
            self._budget.spend(ITEM * len(state))
            target.state.update(state)
        elif type(target) is not dict:  # torch's state dicts carry versions, which nobody needs
            raise RefusedError(f"the file wants to change {told(target)}")

    def _persistent(self, _: object) -> None:
        known = self._pop()
        if type(known) is tuple and len(known) == 4 and known[0] == "module":
            self._stack.append(known[1])  # files before torch 1.6 keep the source beside a class
            return
        if type(known) is not tuple or len(known) not in (5, 6) or known[0] != "storage":
            raise DamagedError(f"{told(known)} as the name of a storage")
        _, kind, key, _, count, *view = known
        if not isinstance(kind, Global) or not isinstance(key, str) or type(count) is not int:
            raise DamagedError("a storage without type, name or length")
        dtype = STORAGES.get(kind.path.removeprefix("torch."))
        if dtype is None:
            raise RefusedError(f"a storage of {told(kind)}: only plain numbers can be read")
        if view and view[0] is not None:
            raise RefusedError("a storage that is a part of another one")
        self._budget.spend(10 * ITEM)
        self._stack.append(self._open_storage(key_of(key), dtype, count))


def _is_nothing(arguments: object) -> bool:
    return isinstance(arguments, tuple) and not arguments


_CONSTANTS = MappingProxyType({"NONE": None, "NEWTRUE": True, "NEWFALSE": False})
_PLAIN = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
        "BINBYTES8", "STRING", "BINSTRING", "SHORT_BINSTRING",
    }
)  # fmt: skip
_NOTHING = frozenset(("PROTO", "FRAME"))
_Step = Callable[[Machine, Any], None]
_STEPS: Mapping[str, _Step] = MappingProxyType(
    {
        "MARK": Machine._mark, "POP": Machine._drop, "DUP": Machine._repeat,
        "POP_MARK": Machine._drop_marked,
        "PUT": Machine._put, "BINPUT": Machine._put, "LONG_BINPUT": Machine._put,
        "MEMOIZE": Machine._put, "GET": Machine._get, "BINGET": Machine._get,
        "LONG_BINGET": Machine._get,
        "EMPTY_LIST": lambda machine, _: machine._new(list), "LIST": Machine._list,
        "EMPTY_DICT": lambda machine, _: machine._new(dict), "DICT": Machine._dict,
        "EMPTY_SET": lambda machine, _: machine._new(set), "FROZENSET": Machine._frozen_set,
        "APPEND": Machine._append, "APPENDS": Machine._appends, "ADDITEMS": Machine._add_items,
        "SETITEM": Machine._set_item, "SETITEMS": Machine._set_items,
        "EMPTY_TUPLE": lambda machine, _: machine._tuple(0), "TUPLE": Machine._tuple,
        "TUPLE1": lambda machine, _: machine._tuple(1),
        "TUPLE2": lambda machine, _: machine._tuple(2),
        "TUPLE3": lambda machine, _: machine._tuple(3),
        "GLOBAL": Machine._global, "STACK_GLOBAL": Machine._stack_global,
        "REDUCE": Machine._call, "NEWOBJ": Machine._object, "BUILD": Machine._build,
        "BINPERSID": Machine._persistent,
    }
)  # fmt: skip
