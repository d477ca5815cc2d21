"""Wrong flags and strange trainings by the thousand: `python -m benchmarks.strangers flags fits`.

Case number i of a part is a pure function of i. A bad flag line is a good one with something wrong
in it; it goes through train.py, in this process, up to where training would begin. A fit is a draw
from the tables below, some rows of which are bad. What comes of a case:

    success  a fit whose losses and weights are finite
    refusal  a ValueError or TypeError, or an exit of train.py, that names the flag or argument
    fault    bad input that is taken in silence, any other error, or a model that does not train,
             evaluate and predict afterwards

Results are appended to benchmarks/strangers.jsonl; cases that are there are not tried again.
`python -m benchmarks.strangers --write` makes benchmarks/STRANGERS.md of them.
"""

import argparse
import collections
import functools
import json
import pathlib
import random
import re
import tempfile
import time

import keras

import train
from benchmarks.generalization_gap import whole_lines
from training import options, runs

FOLDER = pathlib.Path(__file__).parent
RESULTS, TABLE = FOLDER / "strangers.jsonl", FOLDER / "STRANGERS.md"
BACKEND = keras.backend.backend()
WANTED = {"flags": 2000, "fits": 1000}  # On each backend.
HEAD = """# Wrong flags and strange trainings

`python -m benchmarks.strangers flags fits --write`, with each `KERAS_BACKEND`. A success is finite
and trains on. A refusal names the flag or argument. A fault is anything else, also a bad flag or
argument that is taken in silence.

The one fault is Keras' own: a model with all weights frozen, under loss scaling, with
`Adam(use_ema=True)` ends in an AttributeError in a plain `keras.Model` as well.

"""

GOOD = (
    [],
    ["--method=smoothout", "--radius=0.02"],
    ["--method=lookahead+sam+adam", "--rho=0.1"],
    ["--compare=sgd,msam", "--epochs=5"],
    ["--lr_schedule=piecewise", "--lr_milestones=5,10"],
    ["--base_batch_size=32", "--scaling=linear", "--warmup_epochs=2"],
    ["--ghost_batch_size=16", "--ghost_layers"],
    ["--method=padam", "--learning_rate=0.01", "--mixed_precision=mixed_bfloat16"],
)
WRONG = {  # By the type of a flag: values that none takes.
    "int": ("ten", "1.5", "", "-1", "nan", "1e3", str(2**31), "9" * 400, "--1", "[1]", "None"),
    "float": ("fast", "1,5", "", "-0.1", "nan", "inf", "-inf", "1e999", "0.1.2", "1e", "None"),
    "bool": ("maybe", "2", "", "yes please", "None"),
    "string enum": ("none of these", "", "SGD ", "0", "-"),
}
LINES = (  # What is wrong in itself.
    "--lr_milestones=a",
    "--lr_milestones=9,3 --lr_schedule=piecewise",
    "--lr_milestones=5 --lr_schedule=cosine",
    "--method=sgd+adam",
    "--method=sam+",
    "--method=SAM",
    "--method=nudgedsgd",
    "--compare=sam,sam",
    "--compare=sam,sm",
    "--dataset=digitz",
    "--train_split=train[:9]",
    "--workdir=ftp://a/b",
    "--resume",
    "--radius_schedule=tanh --method=sgd",
    "--ghost_batch_size=1",
    "--ghost_batch_size=100000",
    "--steps_per_execution=7",
    "--batch_size=2000 --drop_remainder",
    "--small_batch_epochs=99 --base_batch_size=8",
    "--warmup_epochs=99",
    "--clipnorm=0",
    "--strategy=tpu",
    "--devices=4",
    "--run_eagerly --jit=on",
    "--lr_decay=0.5 --lr_schedule=cosine",
    "--momentum=0.5 --method=adam",
    "--rho=0.1 --method=sgd",
    "--distribution=cauchy --method=smoothout",
    "--antithetic --method=smoothout --copies=3",
    "extra words",
    "--image_size=1000000",
    "--flagfile=/no/such/file",
)


class Began(BaseException):
    """Training would begin."""


def began(*_):
    raise Began


def bad_line(number):
    """A good line of flags, and what is wrong in addition: two lists."""
    rng = random.Random(f"flags {number}")
    flag = rng.choice([flag for flag in options.OURS if flag.flag_type() in WRONG])
    kind = rng.choice(("value", "value", "value", "line", "typo"))
    if kind == "value":
        wrong = [f"--{flag.name}={rng.choice(WRONG[flag.flag_type()])}"]
    elif kind == "line":
        wrong = rng.choice(LINES).split()
    else:
        i = rng.randrange(len(flag.name))
        name = f"{flag.name[:i]}{rng.choice(('', 'x', 2 * flag.name[i]))}{flag.name[i + 1 :]}"
        wrong = [f"--{name}{'x' if name in options.FLAGS else ''}=1"]
    return rng.choice(GOOD), wrong


def flags_outcome(number):
    """What came of a line of flags, and why."""
    good, wrong = bad_line(number)
    line = " ".join([*good, *wrong])
    with tempfile.TemporaryDirectory() as folder:
        try:
            train.main(options.parse(["train.py", f"--workdir={folder}/run", *good, *wrong]))
        except SystemExit as exit:
            names = re.findall(r"\w+", " ".join(flag.partition("=")[0] for flag in wrong))
            named = isinstance(exit.code, str) and any(name in exit.code for name in names)
            return ("refusal", "") if named else ("fault", f"{line}: {exit.code}"[:600])
        except Began:
            return "fault", f"{line}: taken in silence"
        except Exception as error:
            return "fault", f"{line}: {type(error).__name__}: {error}"[:600]
    return "fault", f"{line}: nothing happened"


def recorded():
    """The rows of all cases that were tried."""
    return list(map(json.loads, whole_lines(RESULTS)))


def tried(part, outcome, minutes):
    """Try the cases of a part that are left, while there is time."""
    done = {row["case"] for row in recorded() if (row["part"], row["backend"]) == (part, BACKEND)}
    end = time.monotonic() + 60 * minutes
    with open(RESULTS, "a") as file:
        for number in (number for number in range(WANTED[part]) if number not in done):
            if time.monotonic() > end:
                break
            result, why = outcome(number)
            row = {"part": part, "backend": BACKEND, "case": number, "outcome": result}
            file.write(json.dumps(row | ({"why": why} if why else {})) + "\n")
            file.flush()


def table():
    """The counts as Markdown."""
    counts = collections.Counter((r["part"], r["backend"], r["outcome"]) for r in recorded())
    lines = ["| cases | backend | wanted | tried | success | refusal | fault |", 7 * "| --- " + "|"]
    for part, backend in sorted({key[:2] for key in counts}):
        numbers = [counts[part, backend, outcome] for outcome in ("success", "refusal", "fault")]
        cells = map(str, (part, backend, WANTED[part], sum(numbers), *numbers))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[[], "flags", "fits"])
    parser.add_argument("--minutes", type=float, default=60, help="for each part")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if "flags" in given.parts:
        train.train = began
        runs.load = functools.partial(loaded, kept={})
        tried("flags", flags_outcome, given.minutes)
    if "fits" in given.parts:
        from benchmarks import strange_fits

        tried("fits", strange_fits.outcome, given.minutes)
    print(table())
    if given.write:
        TABLE.write_text(HEAD + table() + "\n")


def loaded(f, kept, load=runs.load):
    """`runs.load`, which reads each data set once."""
    key = tuple(getattr(f, name) for name in runs.DATA_OPTIONS)
    if key not in kept:
        kept[key] = load(f)
    return kept[key]


if __name__ == "__main__":
    main()
