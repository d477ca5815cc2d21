"""Run all examples and write the gallery, docs/examples.md: `python -m examples`.

    python -m examples [--page] [NAME ...]

With `--page`, only the page is written, from the tables and pictures that are there.
"""

import ast
import subprocess
import sys

from examples import common

PAGE = common.FOLDER.parent / "docs" / "examples.md"
HEAD = """# Examples: one paper a file, its number against theory

Each example is a file of up to 100 lines. `python -m examples.NAME` prints what the paper claims,
what its theory says, and what was measured here, with its standard error. It exits with code 1 if a
number leaves its band. It draws the picture in under a minute on two cores; `--quick` shrinks it,
and `--out=DIR` says where the picture goes. The bands were set after a look at what comes out: they
notice when something breaks. `python -m examples` runs all of them and writes this page. They are
checked on TensorFlow.
"""


def page():
    """Return the text of the gallery: what each example says of itself, its table, its picture."""
    parts = [HEAD]
    for name in common.NAMES:
        path = common.FOLDER / f"{name}.py"
        said = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
        numbers = (common.FIGURES / f"{name}.txt").read_text()
        parts.append(
            f"## {name.replace('_', ' ')}\n\n{said} [The file](../examples/{path.name}).\n"
        )
        parts.append(f"```text\n{numbers}```\n")
        parts.append(f"![{name}](../examples/{common.FIGURES.name}/{name}.png)\n")
    return "\n".join(parts)


def main(arguments):
    names = [a for a in arguments if a != "--page"] or common.NAMES
    if "--page" not in arguments:
        for name in names:
            subprocess.run([sys.executable, "-m", f"examples.{name}"], check=True)
    PAGE.write_text(page())


if __name__ == "__main__":
    main(sys.argv[1:])
