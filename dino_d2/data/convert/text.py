# SPDX-License-Identifier: Apache-2.0
"""Reads label files, lists and data.yaml as text, without guessing encodings or executing content."""

import codecs
from pathlib import Path

import yaml

from dino_d2.data.check import DatasetError
from dino_d2.files import check_regular

#: Maximum size in bytes, enough for any list of class names; reading YAML is slow.
_LARGEST_YAML = 2**20

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(file: Path) -> str:
    """A text file in UTF-8, or in UTF-16 with a byte order mark; the mark is taken off.

    Raises:
        DatasetError: the file cannot be read or has another encoding.
    """
    try:
        check_regular(file)
        data = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error}.") from error
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"{file}:{line}: the text is not UTF-8 ({error.reason} {data[error.start]:#04x}). Save the file as UTF-8."
        ) from error


def lines_of(file: Path) -> list[tuple[int, str]]:
    """(number from 1, line without the spaces around it) of the lines that are not empty."""
    lines = enumerate(read_text(file).splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_yaml(file: Path) -> dict:
    """The keys of a YAML file; none where it holds no mapping.

    Aliases are refused: a few hundred bytes can expand to more values than fit into memory.

    Raises:
        DatasetError: the file is too large, is not YAML or has aliases.
    """
    if file.is_file() and file.stat().st_size > _LARGEST_YAML:
        raise DatasetError(f"{file} has more than {_LARGEST_YAML} bytes, too many for a list of classes and folders.")
    text = read_text(file)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise DatasetError(f"{file}:{line}: the alias *{event.anchor} is not read. Write its value out.")
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{file} is no YAML file: {str(error) or 'nested too deeply'}") from error
    return content if isinstance(content, dict) else {}
