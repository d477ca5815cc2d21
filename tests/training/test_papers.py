"""The table of papers is whole: what docstrings cite is in it, and what it names exists."""

import ast
import functools
import re
from pathlib import Path

import pytest

import keras_smoothout
from keras_smoothout import landscape as landscape  # Else `ks.landscape` would not be there.

pytestmark = pytest.mark.tensorflow  # The page is the same on both backends.

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/papers.md").read_text()
NUMBER = r"arXiv:\s*((?:[a-z-]+/)?\d[\d.]*\d)"
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and " | " in line]


def docstrings(folder):
    """Pairs of a place and its docstring, of all Python files in a folder of the repository."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                yield path.name, ast.get_docstring(node) or ""


@pytest.mark.parametrize("folder", ["keras_smoothout", "models", "examples"])
def test_every_paper_that_a_docstring_cites_is_in_the_table(folder):
    cited = {(place, n) for place, text in docstrings(folder) for n in re.findall(NUMBER, text)}
    assert len(cited) > (50 if folder == "keras_smoothout" else 3)
    linked = set(re.findall(r"\[([^]]*)\]\(https://arxiv.org/abs/\1\)", PAGE))
    assert {(place, number) for place, number in cited if number not in linked} == set()


def test_every_paper_of_the_readme_and_the_other_pages_is_in_the_table():
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    pattern = rf"arxiv.org/abs/([\w./-]*\d)|{NUMBER}"
    found = {a or b for page in pages for a, b in re.findall(pattern, page.read_text())}
    assert len(found) > 20
    assert {number for number in found if f"arxiv.org/abs/{number})" not in PAGE} == set()


def test_every_link_of_the_table_is_the_paper_that_it_says():
    links = re.findall(r"\[([^]]*)\]\(https://arxiv.org/abs/([^)]*)\)", PAGE)
    assert links and all(text == target for text, target in links)


def test_every_name_in_the_table_exists():
    names = set(re.findall(r"`ks\.([\w.]+)", PAGE))
    assert len(names) > 60
    for name in sorted(names):
        functools.reduce(getattr, name.split("."), keras_smoothout)
    for path in re.findall(r"`((?:models|examples)/\w+\.py)`", PAGE):
        assert (ROOT / path).exists(), path
    for path in (ROOT / "examples").glob("[a-z]*.py"):
        assert f"`examples/{path.name}`" in PAGE or path.stem == "common", path


def test_every_method_is_in_the_table():
    names = set(re.findall(r"`ks\.([\w.]+)", PAGE))
    assert set(keras_smoothout.methods.__all__) <= names


def test_golden_numbers_and_the_table_name_each_other():
    folder = ROOT / "tests/support/golden"
    assert set(re.findall(r"`(\w+)\.json`", PAGE)) == {path.stem for path in folder.glob("*.json")}


def test_every_row_says_how_it_was_verified():
    _, *sections = re.split(r"(?m)^## ", PAGE)
    words = ("run", "code", "closed form", "notes", "abstract")
    for section in sections[:5]:
        for row in [line for line in section.splitlines() if line.startswith("| ")][1:]:
            verified = row.strip("| ").split(" | ")[2]
            marked = set(re.findall(r"\*\*([^*]+)\*\*", verified))
            assert marked <= set(words), row
            told = ("properties only", "nothing is implemented", "its parts")
            assert marked or verified.startswith(told), row
