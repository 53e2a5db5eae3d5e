# SPDX-License-Identifier: Apache-2.0
"""Reads pickles as data: nothing that a pickle names is imported, called or changed."""

import pickletools
from dataclasses import dataclass, field
from typing import Any, BinaryIO

#: Opcodes that push their argument. pickletools decodes the byte strings of Python 2 as Latin-1.
VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

#: Errors that a damaged or hostile pickle can cause while it is read.
ERRORS = (ValueError, TypeError, LookupError, OverflowError, ArithmeticError)


def in_one_line(error: Exception) -> str:
    """The first 300 characters of an error message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} ..."


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that the pickle names."""

    name: str  # "module.name"


@dataclass(frozen=True, slots=True)
class Stored:
    """A persistent id: in a PyTorch file, a storage outside the pickle."""

    id: Any


@dataclass(eq=False, slots=True)
class Call:
    """A call that the pickle asks for."""

    function: str  # "module.name"
    arguments: tuple
    state: Any = None  # for the result's __setstate__
    content: list = field(default_factory=list)  # pairs or elements put into the result


@dataclass(slots=True)
class Pickle:
    """Content of a pickle while it is read."""

    value: Any = None  # dicts, lists, tuples, plain values, and the classes above
    calls: list[Call] = field(default_factory=list)
    names: set[str] = field(default_factory=set)  # of every Global
    stored: list[Stored] = field(default_factory=list)


def parse_pickle(stream: BinaryIO) -> Pickle:
    """Read one pickle of protocol 0 to 5; the stream is left after it.

    Time and memory depend on the length of the pickle only, not on sizes that it claims.

    Args:
        stream: in memory, so that a claimed length cannot cause a large allocation.

    Raises:
        ERRORS: it is damaged, or has content that no checkpoint needs.
    """
    found = Pickle()
    stack: list = []
    below: list[list] = []  # the stacks under each open mark
    memo: dict[int, Any] = {}

    def to_mark() -> list:
        nonlocal stack
        items, stack = stack, below.pop()
        return items

    def name(module: Any, attribute: Any) -> Global:
        if not (isinstance(module, str) and isinstance(attribute, str)):
            raise ValueError("a name is not text")
        found.names.add(f"{module}.{attribute}")
        return Global(f"{module}.{attribute}")

    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case operation if operation in VALUES:
                stack.append(argument)
            case operation if operation in CONSTANTS:
                stack.append(CONSTANTS[operation])
            case operation if operation in TUPLES:
                count = TUPLES[operation]
                if len(stack) < count:
                    raise ValueError("a tuple has too few items")
                stack[-count:] = [tuple(stack[-count:])]
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                below.append(stack)
                stack = []
            case "POP":
                stack.pop()
            case "POP_MARK":
                to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE":
                items = to_mark()  # which replaces the stack
                stack.append(tuple(items))
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "LIST" | "FROZENSET":
                items = to_mark()
                stack.append(items)
            case "APPEND":
                add(stack[-2], [stack.pop()])
            case "APPENDS" | "ADDITEMS":
                items = to_mark()
                add(stack[-1], items)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = to_mark()
                stack.append({})
                set_items(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                set_items(stack[-1], [key, value])
            case "SETITEMS":
                items = to_mark()
                set_items(stack[-1], items)
            case "GLOBAL":
                stack.append(name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(name(module, attribute))
            case "PERSID" | "BINPERSID":
                stored = Stored(argument if opcode.name == "PERSID" else stack.pop())
                found.stored.append(stored)
                stack.append(stored)
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                if not (isinstance(function, Global) and isinstance(arguments, tuple)):
                    raise ValueError("it calls something that is no function")
                call = Call(function.name, arguments)
                found.calls.append(call)
                stack.append(ordered_dict(arguments) if call.function == "collections.OrderedDict" else call)
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Call):
                    stack[-1].state = state
                elif not isinstance(stack[-1], dict):  # a state dict's own attribute _metadata is not needed
                    raise ValueError(f"it changes a {type(stack[-1]).__name__}")
            case "STOP":
                found.value = stack.pop()
            case operation:
                raise ValueError(f"it uses the opcode {operation}")
    return found


def ordered_dict(arguments: tuple) -> dict:
    """Of no argument, or of a list of pairs, as Python 2 wrote it."""
    result: dict = {}
    for pair in arguments[0] if arguments else ():
        set_items(result, list(pair))
    return result


def add(target: Any, items: list) -> None:
    """Append to a list, or to the result of a call."""
    if not isinstance(target, list | Call):
        raise ValueError(f"it appends to a {type(target).__name__}")
    (target.content if isinstance(target, Call) else target).extend(items)


def set_items(target: Any, items: list) -> None:
    """Put key, value, key, value, ... into a dict, or into the result of a call."""
    if len(items) % 2 or not isinstance(target, dict | Call):
        raise ValueError(f"it sets items of a {type(target).__name__}")
    pairs = list(zip(items[::2], items[1::2], strict=True))
    for key, _ in pairs:
        # Python hashes nested tuples recursively, without a limit of depth.
        parts = key if isinstance(key, tuple) else (key,)
        if not all(part is None or isinstance(part, str | bytes | int | float | Global) for part in parts):
            raise ValueError(f"a key of a dictionary is a {type(key).__name__}")
    if isinstance(target, Call):
        target.content.extend(pairs)
    else:
        target.update(pairs)
