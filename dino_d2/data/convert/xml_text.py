# SPDX-License-Identifier: Apache-2.0
"""XML label files, in any encoding that they declare."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from dino_d2.data.check import DatasetError
from dino_d2.files import check_regular

_DECLARATION = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_FAULTS = (ElementTree.ParseError, LookupError, ValueError, RecursionError, OSError)


def parse_xml(file: Path) -> ElementTree.Element:
    """The root element.

    Raises:
        DatasetError: the file cannot be read, is not XML, or has another encoding than it declares.
    """
    try:
        check_regular(file)
        data = file.read_bytes()
        # Expat knows no encodings of several bytes a character but Unicode's, so that Python decodes.
        declared = _DECLARATION.match(data)
        return ElementTree.fromstring(data.decode(declared[1].decode()) if declared else data)
    except _FAULTS as error:
        raise DatasetError(f"{file} is no XML file: {error}. Export it again, or delete it.") from error


def root_tag(file: Path) -> str | None:
    """The name of the root element, read from the start of the file; None where that is not XML."""
    try:
        check_regular(file)
        with file.open("rb") as opened:
            data = opened.read(2**16)
        declared = _DECLARATION.match(data)
        parser: Any = ElementTree.XMLPullParser(events=("start",))  # typeshed knows other events than Python's
        parser.feed(data.decode(declared[1].decode(), errors="replace") if declared else data)
        return next((element.tag for _, element in parser.read_events()), None)
    except _FAULTS:
        return None
