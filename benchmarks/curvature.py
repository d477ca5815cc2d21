"""Curvature of ResNet-20 on CIFAR-10, ours against PyHessian and curvlinops: time, memory, error.

    python -m benchmarks.curvature --data_dir=DIR [--images=1000] [--write]

All see the same trained weights and images, with BatchNormalization in evaluation mode. Each runs
in its own process, on the same cores, in turn; the table shows medians over `--rounds`. The times
shown include compilation. The eigenvalues are compared with a float64 reference: curvlinops'
Hessian and scipy's `eigsh`. The benchmark stops if a loss differs.

PyTorch is not a dependency of the package. Install it once, into the same virtual environment or
into another one (`--torch_python`):

    pip install torch==2.13.0 numpy scipy tqdm mpmath
    pip install --no-deps pyhessian curvlinops-for-pytorch backpack-for-pytorch linear_operator \
        jaxtyping wadler-lindig opt-einsum einconv einops unfoldNd
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
OURS = {"ours, TensorFlow": "tensorflow", "ours, JAX": "jax"}
NAMES = [*OURS, "PyHessian", "curvlinops"]
EPSILON = 1e-5  # Of BatchNormalization, in `models`.
TOLERANCE = 1e-5  # For ours: as accurate as curvlinops.


def keras_model():
    import keras

    import models

    keras.utils.set_random_seed(0)
    model = models.build("resnet20", (32, 32, 3), 10)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def prepare(args):
    """Train for some steps; write the weights, and the images to take the Hessian over."""
    import keras

    from training import images

    source = images.load("cifar10", args.data_dir)
    batches = source.train.batches(128, (0, 0))
    batches = batches.map(
        lambda i, x, y: ((keras.ops.cast(x, "float32") - source.mean) / source.deviation, y)
    )
    model = keras_model()
    model.fit(batches.take(args.steps), verbose=2)
    x, y = (np.concatenate(a) for a in zip(*batches.take(-(-args.images // 128)), strict=True))
    layers = {}
    for layer in model.layers:  # Their names count them in the order of their creation.
        kind = {"Conv2D": "conv", "BatchNormalization": "norm", "Dense": "dense"}
        if layer.weights:
            place = (
                int((layer.name.rsplit("_", 1)[1:] or "0")[0]) if layer.name[-1].isdigit() else 0
            )
            for i, w in enumerate(layer.get_weights()):
                layers[f"{kind[type(layer).__name__]}/{place}/{i}"] = w
    arrays = {f"keras/{i}": w for i, w in enumerate(model.get_weights())}
    np.savez(args.file, x=x[: args.images], y=y[: args.images], **arrays, **layers)
    return {}


def ours(args, file):
    import keras

    from keras_smoothout.landscape import Objective, density, eigenpairs, hessian

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    model = keras_model()
    model.set_weights([file[f"keras/{i}"] for i in range(len(model.weights))])
    objective = Objective(model, file["x"], file["y"], batch_size=args.batch_size)
    H = hessian(objective)

    def spectrum():
        found = density(H, args.lanczos, args.probes)
        return found.values, found.weights

    def top():
        found = eigenpairs(H, 5, tolerance=TOLERANCE)
        return found.values, found.products

    return (
        objective.loss(objective.weights),
        lambda: H @ np.ones(H.shape[0], "float32"),
        top,
        spectrum,
    )


def torch_model(file, dtype):
    """The ResNet-20 of `models` in torch; modules are made in the same order as Keras' layers."""
    import torch
    from torch import nn

    def weight(name):
        return torch.tensor(file[name])

    class Unit(nn.Module):
        count = 0

        def __init__(self, inputs, filters, size, stride):
            super().__init__()
            self.conv = nn.Conv2d(inputs, filters, size, stride, size // 2, bias=False)
            self.norm = nn.BatchNorm2d(filters, eps=EPSILON)
            i, Unit.count = Unit.count, Unit.count + 1
            state = {"conv.weight": weight(f"conv/{i}/0").permute(3, 2, 0, 1)}
            names = ("weight", "bias", "running_mean", "running_var")
            state |= {f"norm.{name}": weight(f"norm/{i}/{k}") for k, name in enumerate(names)}
            self.load_state_dict(state, strict=False)

        def forward(self, x):
            return self.norm(self.conv(x))

    class Block(nn.Module):
        def __init__(self, inputs, filters, stride):
            super().__init__()
            self.first = Unit(inputs, filters, 3, stride)
            self.second = Unit(filters, filters, 3, 1)
            plain = inputs == filters
            self.shortcut = nn.Identity() if plain else Unit(inputs, filters, 1, stride)

        def forward(self, x):
            y = self.second(torch.relu(self.first(x)))
            return torch.relu(self.shortcut(x) + y)

    blocks, inputs = [Unit(3, 16, 3, 1), nn.ReLU()], 16
    for filters in (16, 32, 64):
        for _ in range(3):
            blocks.append(Block(inputs, filters, 1 + (filters > inputs)))
            inputs = filters
    head = nn.Linear(64, 10)
    head.load_state_dict({"weight": weight("dense/0/0").T, "bias": weight("dense/0/1")})
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return model.to(dtype).eval()


def torch_problem(args, file, dtype):
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model, criterion = torch_model(file, dtype), torch.nn.CrossEntropyLoss()
    x = torch.tensor(file["x"]).permute(0, 3, 1, 2).contiguous().to(dtype)
    y = torch.tensor(file["y"]).long()
    data = list(zip(x.split(args.batch_size), y.split(args.batch_size), strict=True))
    with torch.no_grad():
        loss = sum(criterion(model(x), y).item() * len(x) for x, y in data) / len(x)
    return model, criterion, data, loss


def pyhessian(args, file):
    import pyhessian
    import torch

    model, criterion, data, loss = torch_problem(args, file, torch.float32)
    H = pyhessian.hessian(model, criterion, dataloader=data, cuda=False)
    products, multiply = [0], H.dataloader_hv_product

    def counted(v):
        products[0] += 1
        return multiply(v)

    H.dataloader_hv_product = counted

    def eig(T, eigenvectors):  # What PyHessian 0.1 calls and torch 2 no longer has.
        values, vectors = torch.linalg.eigh(T)
        return torch.stack([values, torch.zeros_like(values)], 1), vectors

    torch.eig = eig

    def top():
        values = H.eigenvalues(top_n=5, tol=args.pyhessian_tolerance)[0]
        return values, products[0]

    return loss, lambda: None, top, lambda: H.density(args.lanczos, args.probes)


def curvlinops(args, file, double=False):
    import torch
    from curvlinops import HessianLinearOperator
    from curvlinops.papyan2020traces.spectrum import fast_lanczos
    from scipy.sparse.linalg import LinearOperator, eigsh

    dtype = torch.float64 if double else torch.float32
    model, criterion, data, loss = torch_problem(args, file, dtype)
    parameters = list(model.parameters())
    H = HessianLinearOperator(model, criterion, parameters, data, check_deterministic=False)
    scipy_H, products = H.to_scipy(np.float64 if double else np.float32), [0]

    def counted(v):
        products[0] += 1
        return scipy_H @ v

    def top():
        operator = LinearOperator(scipy_H.shape, counted, dtype=scipy_H.dtype)
        rng = np.random.default_rng(0)
        options = {"tol": 1e-8 if double else args.tolerance, "v0": rng.normal(size=H.shape[0])}
        return eigsh(operator, 5, which="LA", **options)[0][::-1].tolist(), products[0]

    def spectrum():
        found = [fast_lanczos(H, args.lanczos) for _ in range(args.probes)]
        return [v.tolist() for v, _ in found], [(S[0] ** 2).tolist() for _, S in found]

    return loss, lambda: None, top, spectrum


def reference(args, file):
    return curvlinops(args, file, double=True)


CONTENDERS = dict.fromkeys(OURS, ours) | {
    "PyHessian": pyhessian,
    "curvlinops": curvlinops,
    "reference": reference,
}


def contend(args):
    """One contender's numbers, in this process."""
    loss, compile_product, top, spectrum = CONTENDERS[args.contender](args, np.load(args.file))
    start = time.perf_counter()
    compile_product()
    compiled = time.perf_counter()
    values, products = top()
    solved = time.perf_counter()
    nodes, weights = spectrum()
    return {
        "loss": loss,
        "compile": compiled - start,
        "top5": solved - compiled,
        "density": time.perf_counter() - solved,
        "products": products,
        "values": np.asarray(values, float).tolist(),
        "nodes": np.asarray(nodes, float).tolist(),
        "weights": np.asarray(weights, float).tolist(),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def in_process(name, args, file):
    """Run one contender in its own process."""
    python = sys.executable if name in OURS or name == "prepare" else args.torch_python
    options = [
        f"--{k}={v}" for k, v in vars(args).items() if k not in ("contender", "file", "write")
    ]
    command = [
        python,
        "-m",
        "benchmarks.curvature",
        *options,
        f"--contender={name}",
        f"--file={file}",
    ]
    threads = str(args.threads)
    environment = os.environ | {
        "KERAS_BACKEND": OURS.get(name, "tensorflow"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    print(name, "done", flush=True)
    return json.loads(run.stdout.splitlines()[-1])


def bells(grid, width, result):
    """Spectral density on `grid` from Lanczos nodes and weights, the mean over probes."""
    nodes, weights = (np.asarray(result[k])[:, None, :] for k in ("nodes", "weights"))
    heights = np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2) / (width * (2 * np.pi) ** 0.5)
    return (heights * weights).sum(axis=2).mean(axis=0)


def table(results, exact):
    """Markdown rows: medians over rounds; errors against the float64 reference `exact`."""
    top = np.array(exact["values"])
    low, high = np.min(exact["nodes"]), np.max(exact["nodes"])
    width = (high - low) / 100
    grid = np.linspace(low - 4 * width, high + 4 * width, 2000)
    true = bells(grid, width, exact)
    yield (
        "| | top 5: products | compile (s) | solve (s) | both, against PyHessian "
        "| largest relative error | density (s) | density: distance | peak memory (GiB) |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"

    def median(name, *keys):
        return statistics.median(sum(r[k] for k in keys) for r in results[name])

    slow = median("PyHessian", "compile", "top5")
    for name, rounds in results.items():
        error = max(np.max(np.abs(np.array(r["values"]) / top - 1)) for r in rounds)
        off = [np.trapezoid(np.abs(bells(grid, width, r) - true), grid) / 2 for r in rounds]
        yield (
            f"| {name} | {median(name, 'products'):.0f} | {median(name, 'compile'):.1f} "
            f"| {median(name, 'top5'):.1f} | {slow / median(name, 'compile', 'top5'):.1f}x "
            f"| {error:.1e} | {median(name, 'density'):.1f} | {statistics.median(off):.4f} "
            f"| {median(name, 'memory'):.2f} |"
        )


def report(args, results, exact):
    """What is printed, and kept in CURVATURE.md."""
    values = ", ".join(f"{v:.6f}" for v in exact["values"])
    return "\n".join(
        [
            "# Curvature of ResNet-20 on CIFAR-10",
            "",
            f"Hessian of the mean loss over {args.images} training images in batches of "
            f"{args.batch_size}, at the weights after {args.steps} steps of SGD; {args.threads} "
            f"thread(s); {args.rounds} round(s). Density: {args.probes} probes of {args.lanczos} "
            "Lanczos steps. Distance: half the area between the density and the reference's, which "
            "has other probes (0 to 1).",
            "",
            f"Reference, float64: loss {exact['loss']:.6f}, eigenvalues {values}, "
            f"in {exact['products']} products and {exact['top5']:.0f} s.",
            "",
            *table(results, exact),
            "",
            f"PyHessian: power iteration, tolerance {args.pyhessian_tolerance:g}; its `density` "
            "calls `torch.eig`, which torch 2 no longer has, and runs here with a "
            "replacement. curvlinops: scipy's `eigsh`, "
            f"tolerance {args.tolerance:g}. Ours: `eigenpairs`, tolerance {TOLERANCE:g}. "
            "`python -m benchmarks.curvature` makes this page.",
            "",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", help="folder of prepared tfds sets")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200, help="training steps before measuring")
    parser.add_argument("--lanczos", type=int, default=30, help="steps for each probe")
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pyhessian_tolerance", type=float, default=1e-3)
    parser.add_argument("--tolerance", type=float, default=0.0, help="of eigsh, for curvlinops")
    parser.add_argument("--torch_python", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--write", action="store_true", help="benchmarks/CURVATURE.md")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    if args.contender:
        print(json.dumps(prepare(args) if args.contender == "prepare" else contend(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/problem.npz"
        in_process("prepare", args, file)
        exact = in_process("reference", args, file)
        results = {name: [] for name in NAMES}
        for turn in range(args.rounds):
            for name in NAMES[turn % 4 :] + NAMES[: turn % 4]:
                results[name].append(in_process(name, args, file))
                loss = results[name][-1]["loss"]
                if abs(loss / exact["loss"] - 1) > 1e-5:
                    raise RuntimeError(f"{name} has another loss: {loss}, not {exact['loss']}")
    text = report(args, results, exact)
    print(text)
    if args.write:
        (HERE / "CURVATURE.md").write_text(text)


if __name__ == "__main__":
    main()
