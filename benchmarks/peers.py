"""Train steps of our methods and of their peers, side by side: PEERS.md.

    python -m benchmarks.peers

A peer has a virtual environment, made in `--environments` if it is not there. Time: a method's step
over the plain optimizer's step of the same framework, in CPU time of one core; the two take turns.
Exactness: the distance from a closed form in NumPy after a few steps. One JSON line for each row
goes to benchmarks/peers.jsonl; what has a line is not measured again. A row that failed says why,
and is tried again next time. `--write` only writes the page.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import venv

import numpy as np

from benchmarks.closed_forms import PROBLEMS, VARIANTS, closed_form, distance

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = pathlib.Path(__file__).with_suffix(".jsonl")
PAGE = pathlib.Path(__file__).with_name("PEERS.md")
ENVIRONMENTS = {  # A peer's packages; the others are those that they require.
    "tf_keras": ("tensorflow==2.21.0", "tf_keras==2.21.0"),
    "optax": ("jax==0.10.2", "optax==0.2.8"),
    "torch": ("torch==2.13.0", "pytorch_optimizer==4.1.0", "numpy==2.4.6"),
}
METHODS = ("SAM", "Lookahead", "LAMB", "LARS", "SWA", "EMA")
SIDES = {  # name: module of benchmarks.sides, environment if not this one, Keras' backend, methods
    "ours, TensorFlow": ("ours", None, "tensorflow", METHODS),
    "Keras, TensorFlow": ("keras3", None, "tensorflow", ("LAMB", "EMA")),
    "tf_keras": ("legacy_keras", "tf_keras", "tensorflow", ("SAM", "EMA")),
    "ours, JAX": ("ours", None, "jax", METHODS),
    "Keras, JAX": ("keras3", None, "jax", ("LAMB", "EMA")),
    "optax": ("with_optax", "optax", "", ("SAM", "Lookahead", "LAMB", "LARS", "EMA")),
    "pytorch_optimizer": ("with_torch", "torch", "", METHODS),
}
NETWORKS = {
    "f1": "F1, batch of 256",
    "dense": "F1 without BatchNormalization, batch of 256",
    "resnet20": "ResNet-20, batch of 128",
}
ROUNDING = 1e-5  # What float32 may leave.
READING = """A cell of time is the median of the ratios and its quartiles, in CPU time of one core
that had other work: differences within the quartiles say nothing.

- **SAM of tf_keras takes a smaller share of a step, and is not SAM** on networks with normalization
  or a penalty: its first pass is in inference mode and without the penalty; see the last table.
- **LARS, Lookahead and EMA take a smaller share of a step in PyTorch.** Its plain step takes
  longer; the last lines of a table of time have the milliseconds.
- A pair times one step. Lookahead synchronizes in one step of five, so its median is of a step that
  does not.
- Where a peer is not at the closed form, the last table names the variant that it is at, to
  rounding. "Begins at" is about a running mean that begins at some weights, where the closed form
  has no bias to them. "Bias corrected after the ratio" makes the first step of LAMB
  1 / (1 - beta_1) times as long as the trust ratio asks for.
"""


def interpreter(name, folder):
    """Python of an environment, which is made if it is absent."""
    if name is None:
        return sys.executable
    home, pins = folder / name, "\n".join(ENVIRONMENTS[name])
    python, whole = home / "bin" / "python", home / "installed.txt"
    if not whole.exists() or whole.read_text() != pins:
        print(f"Installing {', '.join(ENVIRONMENTS[name])} in {home}", flush=True)
        venv.create(home, with_pip=True)
        command = [python, "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"not installed: {last_line(done.stderr)}")
        whole.write_text(pins)
    return str(python)


def last_line(text):
    return (text.strip().splitlines() or ["no message"])[-1][:300]


def lines_of(side, rows, pairs, folder):
    """What a side measures of `rows`, in order; for one that fails, why."""
    module, environment, backend, _ = SIDES[side]
    rows = list(rows)
    try:
        python = interpreter(environment, folder)
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        yield from ({"network": n, "method": m, "error": str(error)} for n, m in rows)
        return
    system = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    system |= {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    while rows:
        command = [
            python,
            "-m",
            "benchmarks.sides",
            module,
            *map(",".join, rows),
            f"--pairs={pairs}",
        ]
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | system,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            for line in process.stdout:
                yield json.loads(line)
                rows.pop(0)
            errors = process.stderr.read()
        if rows:
            network, method = rows.pop(0)
            yield {"network": network, "method": method, "error": last_line(errors)}


def judged(row):
    """A row with distances from the closed form in place of weights."""
    if "weights" not in row:
        return row
    weights, moving = ([np.array(a) for a in row.pop(key)] for key in ("weights", "moving"))

    def distances(variant=""):
        exact, mean = closed_form(row["method"], row["network"], variant)
        found = [distance(weights, exact)]
        if moving:
            found.append(np.abs(moving[0] - mean).max() / np.abs(mean).max())
        return [float(f"{d:.2g}") for d in found]

    row["distances"] = distances()
    if max(row["distances"]) > ROUNDING:
        variants = VARIANTS.get(row["method"], ())
        fits = [v for v in variants if max(distances(v)) <= ROUNDING]
        row["because"] = fits[0] if fits else "not found"
    return row


def of(method):
    """What a method is measured on: a penalty and BatchNormalization matter to two passes."""
    return (*NETWORKS, *PROBLEMS) if method == "SAM" else ("f1", "resnet20", PROBLEMS[0])


def recorded():
    """The rows of the file, by side, network and method; of two lines the later one."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rows = map(json.loads, lines)
    return {(row["side"], row["network"], row["method"]): row for row in rows}


def ratio(row):
    """A cell of time."""
    if "error" in row:
        return f"failed: {row['error']}"
    low, middle, high = row["quartiles"]
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def exactness(rows):
    """A cell of exactness: what is not at the closed form, and the variant that it is at."""
    if failed := [row for row in rows if "error" in row]:
        return f"failed: {failed[0]['error']}"
    exact = [max(row["distances"]) for row in rows if "because" not in row]
    parts = [f"{max(exact):.0e}"] if exact else []
    for why in dict.fromkeys(row["because"] for row in rows if "because" in row):
        far = [(r["network"], max(r["distances"])) for r in rows if r.get("because") == why]
        parts += [f"{', '.join(f'{name} {d:.0e}' for name, d in far)}: {why}"]
    return "; ".join(parts)


def page(done):
    """The text of the page."""
    from benchmarks import report

    heads = ["", *SIDES]
    text = [
        "# Train steps of peers",
        "Written by `python -m benchmarks.peers` from [its lines](peers.jsonl).",
        READING.strip(),
    ]
    for network, title in NETWORKS.items():
        if not any(key[1] == network for key in done):
            continue
        lines, plain = [], {"SGD": [], "Adam": []}
        for method in METHODS:
            cells = [done.get((side, network, method)) for side in SIDES]
            if any(cells):
                lines.append((method, [ratio(row) if row else "" for row in cells]))
        for side in SIDES:
            for baseline, cells in plain.items():
                rows = [done.get((side, network, m), {}) for m in METHODS]
                times = [r["milliseconds"] for r in rows if r.get("baseline") == baseline]
                cells.append(f"{np.median(times):.1f}" if times else "")
        lines += [(f"plain {key}, ms", cells) for key, cells in plain.items() if any(cells)]
        text += [f"## {title}: time of a step over that of the plain optimizer"]
        text += [report.table(heads, lines)]
    lines = []
    for method in METHODS:
        cells = [
            [done.get((side, p, method)) for p in PROBLEMS if p in of(method)] for side in SIDES
        ]
        lines.append((method, [exactness(rows) if all(rows) else "" for rows in cells]))
    text += ["## Distance from the closed form after three steps", report.table(heads, lines)]
    versions = {key[0]: row["version"] for key, row in done.items() if "version" in row}
    text += ["## Versions", report.table(["", "version"], [(s, [v]) for s, v in versions.items()])]
    return "\n\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--environments", type=pathlib.Path, default=ROOT / "build" / "peers")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of steps for each row")
    parser.add_argument("--write", action="store_true", help="only write the page")
    args = parser.parse_args()
    done = {key for key, row in recorded().items() if "error" not in row}
    for networks in [] if args.write else [PROBLEMS, *([name] for name in args.networks)]:
        for side in args.sides:
            wanted = [(n, m) for n in networks for m in SIDES[side][-1] if n in of(m)]
            rows = [row for row in wanted if (side, *row) not in done]
            for row in (
                lines_of(side, rows, args.pairs, args.environments.absolute()) if rows else ()
            ):
                line = json.dumps({"side": side} | judged(row))
                with open(RESULTS, "a") as file:
                    file.write(f"{line}\n")
                print(line, flush=True)
    PAGE.write_text(page(recorded()))


if __name__ == "__main__":
    main()
