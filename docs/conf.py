"""Configuration of Sphinx: `make docs` builds the site in build/site.

The sources are the Markdown files where they are in the repository, so their links hold here and
there. The pages of methods and of the reference are made from the package's own tables.
"""

import inspect
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import keras_smoothout as ks  # noqa: E402
from keras_smoothout import landscape, methods  # noqa: E402

project = "keras_smoothout"
copyright = "the authors of keras_smoothout"
version = release = ks.__version__
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/*.md", "examples/*.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 4
default_role = "code"  # Single backquotes in docstrings.
autodoc_typehints = "none"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
html_theme = "furo"
html_title = "keras_smoothout"
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False

METHODS = {name: row.cls for name, row in methods.METHODS.items()} | methods.BASES
REFERENCE = {  # file: title, module, and what is on the page.
    "models": ("Models and the train step", ks, "wrap Model TrainStep Copies Ensemble"),
    "around_training": (
        "Before and after a training",
        ks,
        "find_radius find_rho recalibrate weights_of sample greedy_soup scale_invariant "
        "replica_distance",
    ),
    "batches": ("Batches", ks, "Epochs WarmUpBatches NoiseScaleBatches PersistentBatches"),
    "ghost": ("Ghost batch normalization", ks, "GhostBatchNormalization convert"),
    "callbacks": ("Callbacks", ks.callbacks, " ".join(ks.callbacks.__all__)),
    "schedules": ("Schedules", ks.schedules, " ".join(ks.schedules.__all__)),
    "scaling": ("Scaling rules", ks.scaling, " ".join(ks.scaling.__all__)),
    "landscape": ("Landscape", landscape, " ".join(landscape.__all__)),
    "method": ("A method of your own", ks, "Method Evaluation Step"),
}
OURS = "Reduces to|Cost|Differs from the paper|Reference"
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
BLOCK = re.compile(r"(?<=\S)\n\n(?= {4}(?!>>>)\S)")
SECTION = re.compile(rf"^({OURS}): (.*(?:\n[ ]+.*)*)", re.MULTILINE)


def entry(module, name):
    """The lines that autodoc replaces by a docstring."""
    thing = getattr(module, name)
    kind = "autoclass" if inspect.isclass(thing) else "autofunction"
    own = [k for k, v in vars(thing).items() if shown(k, v)] if kind == "autoclass" else []
    options = [f"   :members: {', '.join(own)}"] if own and thing not in METHODS.values() else []
    lines = [f".. {kind}:: {module.__name__}.{name}", *options]
    return "\n".join(["```{eval-rst}", *lines, "```"])


def shown(name, member):
    """Whether a member of a class is one that a user calls: its docstring has several lines."""
    told = "\n" in (getattr(member, "__doc__", None) or "")
    return told and not name.startswith("_") and not isinstance(member, (bool, int, float, str))


def page(title, *parts):
    return "\n\n".join([f"# {title}", *parts]) + "\n"


def toctree(names):
    return "\n".join(["```{toctree}", ":maxdepth: 1", "", *names, "```"])


def table():
    """The README's table of methods, where each name leads to its page."""
    text = (ROOT / "README.md").read_text().partition("## Methods\n")[2]
    text = text.partition("\n\nThere are also")[0].strip()
    for name, cls in METHODS.items():
        pattern = rf"`({cls.__name__}(\([^`]*\))?)`(?= \|)"
        text = re.sub(pattern, lambda m, name=name: f"[`{m[1]}`]({name}.md)", text)
    return text


def nesting():
    """Which method must not be inside which, found by trying each pair."""
    copied = [f"`{cls.__name__}`" for cls in methods.BASES.values() if cls.per_copy]
    lines = ["| method | refuses inside of it | in `Copies` |", "|---|---|---|"]
    for outer in (row.cls for row in methods.METHODS.values()):
        reasons = {}
        for inner in METHODS.values():
            try:
                outer(inner() if inner in methods.BASES.values() else inner("sgd"))
            except ValueError as refusal:
                reason = re.search(", which (.*?): ", str(refusal))[1]
                reasons.setdefault(reason, []).append(f"`{inner.__name__}`")
        refused = "; ".join(f"{', '.join(inner)}, which {why}" for why, inner in reasons.items())
        in_copies = "works" if outer.per_copy else "refused"
        lines.append(f"| `{outer.__name__}` | {refused or 'nothing'} | {in_copies} |")
    return page(
        "What goes inside what",
        "Every method takes every other one, and every optimizer of Keras, except what would lose "
        "something. That is refused when the nest is made, and the error says whether the other "
        "way around works. `Copies` takes what does to each copy what it does to a model, and of "
        f"the base optimizers {', '.join(copied)}. [More on `Copies`](../copies.md).",
        "\n".join(lines),
    )


def pages():
    """The text of each page that is made, by its path under docs/."""
    intro = "Each goes around an optimizer of yours. [What to try first](../choose.md) depends on "
    entries = toctree([*METHODS, "nesting"])
    found = {"methods/index.md": page("Methods", f"{intro}what hurts.", table(), entries)}
    found["methods/nesting.md"] = nesting()
    for name, cls in METHODS.items():
        found[f"methods/{name}.md"] = page(cls.__name__, entry(ks, cls.__name__))
    found["reference/index.md"] = page("Reference", toctree(REFERENCE))
    for name, (title, module, names) in REFERENCE.items():
        entries = (entry(module, n) for n in names.split())
        found[f"reference/{name}.md"] = page(title, *entries)
    return found


def as_rst(app, what, name, thing, options, lines):
    """Make RST of a docstring: code of one backquote, blocks of code, and our own sections."""
    text = SECTION.sub(lambda m: f"**{m[1]}:** {' '.join(m[2].split())}\n", "\n".join(lines))
    text = CODE.sub(r"``\1``", text)
    body, section, rest = text.partition("\nArgs:\n")
    body = BLOCK.sub(lambda m: f"\n\n::\n{m[0]}", body)
    lines[:] = f"{body}{section}{rest}".split("\n")


def setup(app):
    for path, text in pages().items():
        path = ROOT / "docs" / path
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # Before Napoleon.
