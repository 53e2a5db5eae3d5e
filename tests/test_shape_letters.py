# SPDX-License-Identifier: Apache-2.0
"""Every shape in a comment or docstring uses the letters explained in dino_d2/__init__.py."""

import ast
import io
import re
import tokenize

import pytest

import dino_d2
from tests.paths import ROOT

LEGEND = dict(re.findall(r"(?<!\S)([A-Z])  (\S[^\n]*?)(?=   |\n)", dino_d2.__doc__))
FILES = sorted((ROOT / "dino_d2").rglob("*.py"))
#: What may stand between the brackets of a shape: letters and words, numbers, products, sums, "...".
SHAPE = re.compile(r"\[([A-Za-z_.\d\s,*·/+\-()⌈⌉]+)\]")


def prose(source: str) -> list[str]:
    """Comments and docstrings of a file."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return comments + [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


def unknown_letters(text: str) -> list[str]:
    """Capital letters in shapes of a text that the legend does not have."""
    letters = [
        letter for shape in SHAPE.findall(text) for letter in re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", shape)
    ]
    return [letter for letter in letters if letter not in LEGEND]


def test_the_legend_has_sixteen_letters():
    assert len(LEGEND) == 16
    assert LEGEND["L"] == "decoder layers"


def test_a_letter_outside_the_legend_is_found():
    assert unknown_letters("boxes [L, B, X, 4] and [..., A * D]") == ["X", "A"]
    assert unknown_letters("[B, T, heads, V, R, 2], [n, 4], ⌈[B, C, h, w]⌉") == []
    assert unknown_letters("schedules on [0, 1), and " + "many words " * 100) == []  # quickly, too


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shapes_use_the_letters_of_the_legend(path):
    found = [(letter, text) for text in prose(path.read_text(encoding="utf-8")) for letter in unknown_letters(text)]
    assert not found, found[:3]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_letters_keep_their_meaning(path):
    """Words beside a letter that would give it another meaning."""
    wrong = (
        r"\bL (feature )?levels|\bT objects|\bM (matched )?pairs|\bM heads"
        r"|\bE embedding|\bP points|\bQ (matching )?queries"
    )
    for text in prose(path.read_text(encoding="utf-8")):
        assert not re.search(wrong, text), text
