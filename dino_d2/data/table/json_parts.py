# SPDX-License-Identifier: Apache-2.0
"""Reads the lists of a large JSON object part by part, so that the file never has to fit into memory."""

import itertools
import json as json_module
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dino_d2.data.check import DatasetError

#: Bytes of text in a part; parsed, they take some ten times as much memory.
PART_BYTES = 8 * 2**20
#: Between two objects of a list. Within a string or a nested list it can occur too, which decoding a part reveals.
_BORDER = re.compile(rb"\}\s*,\s*(?=\{)")
_KEY = re.compile(rb'("(?:[^"\\]|\\.)*")[ \t\n\r]*:')
_SPACE = re.compile(rb"[ \t\n\r]*")
_LONGEST_KEY = 2**20
#: The end of a part is searched in so many of its last bytes.
_TAIL = 2**16


class Part(NamedTuple):
    """Some entries of one list, in the order of the file."""

    key: str  # of the list in the top-level object
    number: int  # of the part in its list, from 0
    entries: Any  # as `decode` returned them; None for a value that is no list
    end: int  # the byte of the file at which the part ends


def json_parts(json: Path, decode: Callable[[str, bytes], Any], on_read: Callable[[bytes], Any]) -> Iterator[Part]:
    """The entries of all lists in the object of a JSON file, and one part for each empty list and each other value.

    Args:
        json: a file in UTF-8 without byte order mark that holds one object.
        decode: from a key and the text of a JSON list with some entries to these entries; raises ValueError if the
            text is not JSON.
        on_read: called with each block of bytes that is read, in their order.

    Raises:
        DatasetError: the file is not JSON, or is cut off.
    """
    with open(json, "rb") as file:
        yield from _Reader(json, file, decode, on_read).parts()


class _Reader:
    """A position in a file, and the bytes around it that are in memory."""

    def __init__(self, json: Path, file: BinaryIO, decode: Callable[[str, bytes], Any], on_read: Callable):
        self.json, self.file, self.decode, self.on_read = json, file, decode, on_read
        self.text = b""
        self.at = 0  # the position in `text`
        self.read = 0  # bytes of the file up to the end of `text`
        self.at_end = False  # of the file

    def parts(self) -> Iterator[Part]:
        self._expect(b"{")
        if not self._has(b"}"):
            while True:
                key = self._key()
                if self._has(b"["):
                    yield from self._list(key)
                else:
                    self._skip_value()
                    yield Part(key, 0, None, self._byte(self.at))
                if self._has(b"}"):
                    break
                self._expect(b",")
        self._skip_space()
        if self.at < len(self.text):
            raise self._error("Extra data", self.at)

    def _list(self, key: str) -> Iterator[Part]:
        if self._has(b"]"):
            yield Part(key, 0, self.decode(key, b"[]"), self._byte(self.at))
            return
        for number in itertools.count():
            self._skip_space()
            self._load(PART_BYTES)
            self.at, entries = self._usual_part(key) or self._careful_part(key)
            yield Part(key, number, entries, self._byte(self.at))
            if self._has(b"]"):
                return
            self._expect(b",")

    def _usual_part(self, key: str) -> tuple[int, Any] | None:
        """Cut at the last border between objects. If the text up to there decodes, the border is one of this list."""
        last = min(len(self.text), self.at + PART_BYTES)
        ends = [match.start() + 1 for match in _BORDER.finditer(self.text, max(self.at, last - _TAIL), last)]
        if not ends:
            return None
        try:
            return ends[-1], self._decoded(key, ends[-1])
        except ValueError:
            return None

    def _careful_part(self, key: str) -> tuple[int, Any]:
        """Find the end entry by entry: at the end of a list, or where objects have lists of objects."""
        while not (ends := list(self._ends_of_entries())):
            if self.at_end:
                raise self._error("Expecting ',' delimiter", self._value_end())
            self._load(2 * (len(self.text) - self.at))
        try:
            return ends[-1], self._decoded(key, ends[-1])
        except RecursionError as error:
            raise self._too_deep() from error
        except ValueError as error:  # such as text that is not UTF-8
            raise self._error(str(error), self.at) from error

    def _decoded(self, key: str, end: int) -> Any:
        return self.decode(key, b"".join((b"[", memoryview(self.text)[self.at : end], b"]")))

    def _ends_of_entries(self) -> Iterator[int]:
        """Where in `text` the entries end that are complete in it, from the position on."""
        text = self.text.decode("latin-1")  # one character for each byte
        at = self.at
        while True:
            try:
                _, end = _DECODER.raw_decode(text, _space_end(self.text, at))
            except (ValueError, RecursionError):
                return
            following = _space_end(self.text, end)
            byte = self.text[following : following + 1]
            if byte not in (b",", b"]"):
                return  # nothing has been read that ends the value: a number may go on
            yield end
            if byte == b"]":
                return
            at = following + 1

    def _skip_value(self) -> None:
        end = self._value_end()
        try:
            self.text[self.at : end].decode()
        except UnicodeDecodeError as error:
            raise self._error(str(error), self.at) from error
        self.at = end

    def _value_end(self) -> int:
        """Where in `text` the value ends that begins at the position."""
        while True:
            try:
                _, end = _DECODER.raw_decode(self.text.decode("latin-1"), self.at)
            except json_module.JSONDecodeError as error:
                if self.at_end:
                    raise self._error(error.msg, error.pos) from error
            except RecursionError as error:
                raise self._too_deep() from error
            else:
                if self.at_end or self.text[end : end + 1].strip(b"-+.eE0123456789"):  # a number may go on
                    return end
            self._load(2 * (len(self.text) - self.at))

    def _key(self) -> str:
        while (match := _KEY.match(self.text, self.at)) is None:
            if self.at_end or len(self.text) - self.at > _LONGEST_KEY:
                raise self._error("Expecting property name enclosed in double quotes and a colon", self.at)
            self._load(len(self.text) - self.at + 1)
        try:
            key = json_module.loads(match[1])
        except ValueError as error:
            raise self._error(str(error), self.at) from error
        self.at = match.end()
        self._skip_space()
        return key

    def _expect(self, byte: bytes) -> None:
        if not self._has(byte):
            raise self._error(f"Expecting {byte.decode()!r} delimiter", self.at)

    def _has(self, byte: bytes) -> bool:
        """Go to the next byte that is no space, and past it if it is this one."""
        self._skip_space()
        found = self.text[self.at : self.at + 1] == byte
        self.at += found
        if found:
            self._skip_space()
        return found

    def _skip_space(self) -> None:
        self._load(1)
        while (end := _space_end(self.text, self.at)) == len(self.text) and not self.at_end:
            self.at = end
            self._load(1)
        self.at = end

    def _load(self, count: int) -> None:
        """Have so many bytes from the position on in memory, or all up to the end of the file."""
        while len(self.text) - self.at < count and not self.at_end:
            block = self.file.read(max(PART_BYTES, count - len(self.text) + self.at))
            self.on_read(block)
            self.at_end = not block
            self.read += len(block)
            self.text, self.at = self.text[self.at :] + block, 0

    def _byte(self, at: int) -> int:
        """The place in the file of a place in `text`."""
        return self.read - len(self.text) + at

    def _error(self, what: str, at: int) -> DatasetError:
        place = _place(self.json, self._byte(at))
        return DatasetError(f"{self.json} is not a JSON file: {what}: {place}. Is it cut off, or another kind of file?")

    def _too_deep(self) -> DatasetError:
        return DatasetError(f"{self.json} is nested too deeply to be a COCO detection file.")


_DECODER = json_module.JSONDecoder()


def _place(json: Path, byte: int) -> str:
    """A byte of a file in UTF-8 as `json.JSONDecodeError` names it."""
    line, column, characters = 1, 1, 0
    with open(json, "rb") as file:
        while block := file.read(min(PART_BYTES, byte)):
            byte -= len(block)
            _, newline, tail = block.rpartition(b"\n")
            line += block.count(b"\n")
            column = _characters(tail) + (1 if newline else column)
            characters += _characters(block)
    return f"line {line} column {column} (char {characters})"


def _characters(text: bytes) -> int:
    """The number of bytes that begin a character of UTF-8."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) & 0xC0 != 0x80))


def _space_end(text: bytes, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # as it matches nothing, too
    return match.end()
