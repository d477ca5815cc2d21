"""Trains an image classifier with SmoothOut, SAM, Lookahead or plain SGD, and compares them.

Examples:
  # Handwritten digits, which need no download: SGD against SmoothOut with a large batch.
  python train.py --compare=sgd,smoothout --radius=0.02 --batch_size=720 --epochs=30

  # ResNet-20 on CIFAR-10, large batch with ghost batches; fetches the data on the first run.
  python train.py --dataset=cifar10 --download --model=resnet20 --method=smoothout --radius=0.01
      --batch_size=2048 --ghost_batch_size=128 --epochs=100 --augment=crop_flip --l2=1e-4
      --lr_schedule=piecewise --lr_milestones=50,75

  # Methods nest, the outermost first; the last one may be a base optimizer (else it is sgd).
  python train.py --method=lookahead+smoothout+adam --learning_rate=0.001

  # Go on with an interrupted run, or train a finished one for longer.
  python train.py --resume --workdir=runs/digits-f1-sgd --epochs=100

  # Repeat a run: all flags of it are in its flags.txt.
  python train.py --flagfile=runs/digits-f1-sgd/flags.txt --workdir=runs/again

A run leaves in its workdir: flags.txt, metrics.csv (a row per epoch), tensorboard/, the newest
checkpoint, model.keras, summary.json and curves.png. With --compare or --seeds it is a folder
per run, and comparison.png. Training loss and accuracy of an epoch are means over its steps, at
the weights that the method looks at; the closing table evaluates the final, clean weights.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # No chatter of TensorFlow's start.

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import data
import keras_smoothout as ks
import models
import plots

# Methods: optimizers and the flags that each one takes. A new method is a new row. ----------------

CLIPS = ("clipnorm", "global_clipnorm", "clipvalue")
NOISE = ("radius", "distribution", "copies", "antithetic", "perturbation", "denoise", "seed")
METHODS = {
    "smoothout": (ks.SmoothOut, (*NOISE, "scale")),
    "adasmoothout": (ks.AdaSmoothOut, NOISE),
    "sam": (ks.SAM, ("rho", "interval", "perturbation")),
    "asam": (ks.ASAM, ("rho", "eta", "interval", "perturbation")),
    "lookahead": (ks.Lookahead, ("sync_period", "slow_step_size")),
}
BASES = {
    "sgd": (keras.optimizers.SGD, ("learning_rate", "momentum", "nesterov", *CLIPS)),
    "adam": (keras.optimizers.Adam, ("learning_rate", *CLIPS)),
    "adamw": (keras.optimizers.AdamW, ("learning_rate", "weight_decay", *CLIPS)),
}
KNOWN = f"{', '.join([*METHODS, *BASES])}, or nested ones: lookahead+smoothout+adam"
METHOD_FLAGS = {name for _, names in (METHODS | BASES).values() for name in names}


def nested(method):
    """The rows of a method's optimizers, outermost first; the last one is a base."""
    names = method.split("+")
    return [(METHODS | BASES)[name] for name in names + ["sgd"] * (names[-1] not in BASES)]


# Flags --------------------------------------------------------------------------------------------

FLAGS = flags.FLAGS
switch, number, real = flags.DEFINE_bool, flags.DEFINE_integer, flags.DEFINE_float
text, texts, choice = flags.DEFINE_string, flags.DEFINE_list, flags.DEFINE_enum

text("dataset", "digits", "'digits', or any image classification set of tfds.")
text("data_dir", None, "Folder of prepared tfds sets (default: that of tfds).")
switch("download", False, "Let tfds download and prepare the set.")
text("train_split", "train", "Split of tfds to train on, such as train[:45000].")
text("test_split", "test", "Split of tfds to test on.")
number("image_size", None, "Resize all images to so many pixels.", 1)
number("train_examples", None, "Train on so many examples only, the same for all seeds.", 1)
choice("augment", "none", data.AUGMENTATIONS, "Random crops, and mirror images.")
real("label_smoothing", 0.0, "Share of each label that is spread over all classes.", 0, 1)

choice("model", "f1", models.NAMES, "Network.")
real("l2", 0.0, "Weight decay in the gradient: l2/2 times the squared norm in the loss.", 0)

text("method", "sgd", f"{KNOWN}.")
texts("compare", [], "Methods to train in turn, on the same data and seeds.")
number("seeds", 1, "Train each method with so many seeds, from --seed on.", 1)
real("radius", None, "Size of SmoothOut's noise (default: 0.01, of AdaSmoothOut 0.1).", 0)
choice("radius_schedule", "constant", ("constant", "annealed", "tanh"), "Radius over the steps.")
choice("distribution", "uniform", ("uniform", "normal"), "Distribution of SmoothOut's noise.")
choice("scale", "absolute", ("absolute", "weight", "filter"), "Unit of the radius.")
number("copies", 1, "Draws of noise that SmoothOut averages in a step.", 1)
switch("antithetic", False, "Draw SmoothOut's copies as pairs of opposite noise.")
switch("denoise", True, "Take SmoothOut's noise off after the step; not to is an ablation.")
choice("perturbation", "replica", ("replica", "shared"), "Perturb each replica, or all alike.")
real("rho", None, "Radius of SAM's ball (default: 0.05, of ASAM 0.5).", 0)
real("eta", 0.01, "What ASAM adds to the magnitude of the weights.", 0)
number("interval", 1, "Take SAM's second gradient on every so many-th step only.", 1)
number("sync_period", 5, "Steps between two synchronizations of Lookahead.", 1)
real("slow_step_size", 0.5, "Fraction of the way that Lookahead's slow weights go.", 0, 1)

number("batch_size", 128, "Examples in a batch, over all replicas.", 1)
number("ghost_batch_size", 0, "Examples in a ghost batch, of one replica; 0 for none.", 0)
switch("drop_remainder", False, "Leave out the smaller last batch of an epoch.")
number("epochs", 20, "Epochs to train, those before --resume included.", 1)
real("learning_rate", 0.1, "Learning rate, the highest of the schedule.", 0)
choice("lr_schedule", "constant", ("constant", "cosine", "piecewise", "polynomial"), "Its course.")
texts("lr_milestones", [], "Epochs after which piecewise multiplies by --lr_decay.")
real("lr_decay", 0.1, "Factor of piecewise.", 0)
real("lr_power", 1.0, "Exponent of polynomial; 1 is a straight line.", 0)
number("warmup_epochs", 0, "Epochs in which cosine first rises linearly.", 0)
real("momentum", 0.9, "Momentum of sgd.", 0, 1)
switch("nesterov", False, "Nesterov's momentum.")
real("weight_decay", 0.004, "Decoupled weight decay of adamw.", 0)
real("clipnorm", None, "Clip the norm of each gradient.", 0)
real("global_clipnorm", None, "Clip the norm of all gradients together.", 0)
real("clipvalue", None, "Clip each element of the gradients.", 0)
number("seed", 0, "Seed of weights, order, augmentation, dropout and noise.", 0)

choice("mixed_precision", "float32", ("float32", "mixed_float16", "mixed_bfloat16"), "Precision.")
choice("jit", "auto", ("auto", "on", "off"), "Compile the step by XLA; auto leaves it to Keras.")
switch("run_eagerly", False, "Do not trace the step: to debug it.")
number("steps_per_execution", 1, "Steps in one call of the traced function.", 1)
choice("strategy", "default", ("default", "mirrored"), "One device, or a replica on each.")
number("devices", 1, "Devices to split the CPU into, for mirrored without GPUs.", 1)

text("workdir", None, "Folder of the run (default: runs/<dataset>-<model>-<method>).")
switch("resume", False, "Go on with the run in --workdir; its flags hold but for those given.")
switch("overwrite", False, "Delete the run in the workdir first.")
number("verbose", 1, "0: no progress, 1: progress bars, 2: a line per epoch.", 0, 2)

flags.register_validator(
    "lr_milestones",
    lambda epochs: all(map(str.isdigit, epochs)),
    "must be whole epochs, as in 50,75",
)

EVALUATION_BATCH = 500
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
DATA_FLAGS = ("dataset", "data_dir", "download", "train_split", "test_split", "image_size")
DATA_FLAGS += ("train_examples",)
OURS = FLAGS.flags_by_module_dict()[FLAGS.find_module_defining_flag("dataset")]
CHANGEABLE = ("epochs", "workdir", "resume", "data_dir", "download", "verbose")  # On resuming.


def parse(argv):
    """Reads the flags, or ends with what is wrong about them."""
    try:
        for flag in OURS:
            flag.unparse()
        rest = FLAGS(argv)
        if FLAGS.resume and FLAGS.workdir:
            recall({flag.name: flag.value for flag in OURS if flag.present})
        check(FLAGS)
        if rest[1:]:
            raise flags.Error(f"train.py takes flags only. Received: {' '.join(rest[1:])}")
        return rest
    except flags.Error as error:
        sys.exit(f"{error}\nAll flags are explained by: python train.py --help")


def recall(given):
    """Sets all flags to those of the run in the workdir, but for those that may be given anew."""
    saved = Path(FLAGS.workdir, "flags.txt")
    if not saved.exists():
        raise flags.Error(f"there is no run to --resume in {FLAGS.workdir}: {saved} is missing")
    for flag in OURS:
        flag.unparse()
    FLAGS(["", f"--flagfile={saved}"])
    for name, value in given.items():
        own = FLAGS[name].value
        if name not in CHANGEABLE and value != own:
            raise flags.Error(
                f"--{name} cannot change on --resume: leave it out, or begin a run in another "
                f"--workdir. Received: --{name}={value} for a run with {own}"
            )
        if name == "epochs" and value < own:
            raise flags.Error(f"--epochs can only be raised from {own}. Received: --epochs={value}")
        FLAGS[name].value = value


def check(f):
    """Raises for flags that exclude each other or that no method has a use for."""
    methods, mirrored = f.compare or [f.method], f.strategy == "mirrored"
    known = f"(({'|'.join(METHODS)})\\+)*({'|'.join([*METHODS, *BASES])})"
    epochs = [0, *map(int, f.lr_milestones), f.epochs]
    refuse(f.resume and not f.workdir, "--resume needs --workdir, the folder of the run")
    refuse(f.compare and f.method != "sgd", "--compare and --method exclude each other")
    refuse(len(set(methods)) < len(methods), "--compare must name each method once")
    if not all(re.fullmatch(known, method) for method in methods):
        refuse(True, f"--{'compare' if f.compare else 'method'} takes {KNOWN}")
    refuse(
        bool(f.lr_milestones) != (f.lr_schedule == "piecewise"),
        "--lr_milestones and --lr_schedule=piecewise need each other",
    )
    refuse(epochs != sorted(set(epochs)), "--lr_milestones must rise, from 1 to below --epochs")
    refuse(
        f.warmup_epochs and f.lr_schedule != "cosine", "--warmup_epochs needs --lr_schedule=cosine"
    )
    for name, schedule in (("lr_decay", "piecewise"), ("lr_power", "polynomial")):
        idle = f.lr_schedule != schedule and f[name].value != f[name].default
        refuse(idle, f"--{name} needs --lr_schedule={schedule}")
    refuse(f.warmup_epochs >= f.epochs, "--warmup_epochs must be less than --epochs")
    refuse(f.ghost_batch_size > f.batch_size, "--ghost_batch_size must not exceed --batch_size")
    refuse(f.devices > 1 and not mirrored, "--devices needs --strategy=mirrored")
    refuse(f.batch_size % f.devices, "--batch_size must be a multiple of --devices")
    refuse(mirrored and not ON_TENSORFLOW, "--strategy=mirrored needs KERAS_BACKEND=tensorflow")
    refuse(mirrored and f.jit == "on", "--strategy=mirrored and --jit=on exclude each other")
    refuse(f.run_eagerly and f.jit == "on", "--run_eagerly and --jit=on exclude each other")
    used = {"seed"}.union(*(names for method in methods for _, names in nested(method)))
    for name in METHOD_FLAGS - used:
        idle = f[name].value != f[name].default
        refuse(idle, f"--{name} means nothing to the method {' or '.join(methods)}")


def refuse(wrong, message):
    """Raises `message` if anything is `wrong`, with the values of the flags that it names."""
    if wrong:
        named = re.findall(r"--(\w+)", message)
        raise flags.Error(f"{message}. Received: {' '.join(FLAGS[n].serialize() for n in named)}")


# What the flags build -----------------------------------------------------------------------------


def learning_rate(steps):
    """The learning rate over the run; an epoch has so many steps."""
    schedules, rate, total = keras.optimizers.schedules, FLAGS.learning_rate, FLAGS.epochs * steps
    if FLAGS.lr_schedule == "cosine":
        warmup = FLAGS.warmup_epochs * steps
        rising = {"warmup_target": rate, "warmup_steps": warmup} if warmup else {}
        return schedules.CosineDecay(0.0 if warmup else rate, total - warmup, **rising)
    if FLAGS.lr_schedule == "polynomial":
        return schedules.PolynomialDecay(rate, total, 0.0, FLAGS.lr_power)
    if FLAGS.lr_schedule == "piecewise":
        last = [int(epoch) * steps - 1 for epoch in FLAGS.lr_milestones]  # steps of the old rate
        rates = [rate * FLAGS.lr_decay**i for i in range(len(last) + 1)]
        return schedules.PiecewiseConstantDecay(last, rates)
    return rate


def radius(steps):
    """The radius of the noise over the run."""
    if FLAGS.radius_schedule == "annealed":
        return ks.schedules.AnnealedRadius(FLAGS.radius)
    if FLAGS.radius_schedule == "tanh":
        return ks.schedules.TanhRadius(FLAGS.radius, FLAGS.epochs * steps)
    return FLAGS.radius


def optimizer(method, seed, steps):
    """The optimizers of a nested method, one around the other."""
    values = {name: FLAGS[name].value for name in METHOD_FLAGS}
    values |= {"learning_rate": learning_rate(steps), "radius": radius(steps)}
    inner = ()
    for depth, (cls, names) in enumerate(reversed(nested(method))):
        values["seed"] = seed + depth  # Nested noise is independent.
        inner = (cls(*inner, **{n: values[n] for n in names if values[n] is not None}),)
    return inner[0]


def build(method, seed, source, steps):
    """A compiled model."""
    keras.config.set_dtype_policy(FLAGS.mixed_precision)
    model = ks.wrap(models.build(FLAGS.model, source.image_shape, source.classes, l2=FLAGS.l2))
    model.compile(
        optimizer=optimizer(method, seed, steps),
        loss=keras.losses.CategoricalCrossentropy(True, FLAGS.label_smoothing),
        metrics=["accuracy"],
        ghost_batch_size=FLAGS.ghost_batch_size or None,
        jit_compile={"on": True, "off": False}.get(FLAGS.jit, "auto"),
        run_eagerly=FLAGS.run_eagerly,
        steps_per_execution=FLAGS.steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def devices():
    """The scope to build models in, of one device or of a replica on each."""
    if not ON_TENSORFLOW:
        tf.config.set_visible_devices([], "GPU")  # tf.data leaves the GPU to the backend.
    if FLAGS.devices > 1:
        logical = [tf.config.LogicalDeviceConfiguration()] * FLAGS.devices
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], logical
        )
    if FLAGS.strategy == "default":
        return tf.distribute.get_strategy()
    tf.get_logger().setLevel("WARNING")  # MirroredStrategy would tell of every variable.
    kind = "GPU" if FLAGS.devices == 1 and tf.config.list_physical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([d.name for d in tf.config.list_logical_devices(kind)])


# One run ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole(path):
    """A path to write to, which takes the place of `path` at the end: a whole file or none."""
    temporary = path.with_name(f"unfinished-{path.name}")
    yield temporary
    os.replace(temporary, path)


class Record(keras.callbacks.Callback):
    """After each epoch, a row of metrics.csv and a checkpoint, whose name holds the epoch."""

    def __init__(self, workdir, history):
        super().__init__()
        self.workdir = workdir
        self.history = history

    def on_epoch_begin(self, epoch, logs=None):
        self.rate = float(1.0 * self.model.optimizer.learning_rate)
        self.began = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.seconds = time.perf_counter() - self.began  # of training alone

    def on_epoch_end(self, epoch, logs=None):
        times = {"learning_rate": self.rate, "seconds": self.seconds}
        self.history.append({"epoch": epoch + 1, **logs, **times})
        with whole(self.workdir / "metrics.csv") as path:
            plots.write(self.history, path)
        older = checkpoints(self.workdir)
        with whole(self.workdir / f"epoch-{epoch + 1:06d}.npz") as path:
            np.savez(path, *[variable.numpy() for variable in variables(self.model)])
        for path in older:
            path.unlink()


def checkpoints(workdir):
    return sorted(workdir.glob("epoch-*.npz"))


def variables(model):
    """All that the next epoch depends on, also the state of dropout, which Keras does not save."""
    return [*model.variables, *model.optimizer.variables]


def train(method, seed, source, steps, workdir, strategy):
    """One run, or what is left of it. Returns its history and the numbers of its final weights."""
    workdir.mkdir(parents=True, exist_ok=True)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    history = []
    with strategy.scope():
        model = build(method, seed, source, steps)
        for newest in checkpoints(workdir)[-1:]:
            for variable, value in zip(variables(model), np.load(newest).values(), strict=True):
                variable.assign(value)
            history = plots.read(workdir / "metrics.csv")[: int(newest.stem[len("epoch-") :])]
    test = data.testing(source, source.test, EVALUATION_BATCH)
    if (done := len(history)) < FLAGS.epochs:
        epochs = range(done, FLAGS.epochs)
        model.fit(
            data.training(
                source, FLAGS.batch_size, epochs, FLAGS.augment, seed, FLAGS.drop_remainder
            ),
            validation_data=test,
            initial_epoch=done,
            epochs=FLAGS.epochs,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=FLAGS.verbose,
            callbacks=[
                Record(workdir, history),
                keras.callbacks.TensorBoard(workdir / "tensorboard", write_graph=False),
            ],
        )
    with whole(workdir / "model.keras") as path:
        model.save(path)
    training = data.testing(source, source.train, EVALUATION_BATCH)
    summary = {"method": method, "seed": seed, "epochs": FLAGS.epochs}
    for split, batches in (("train", training), ("test", test)):
        numbers = model.evaluate(batches, verbose=0, return_dict=True)
        summary |= {f"{split}_{metric}": value for metric, value in numbers.items()}
    # Not of the first epoch, in which the step is compiled.
    seconds = statistics.median_low(row["seconds"] for row in history[1:] or history)
    images = min(steps * FLAGS.batch_size, source.train.examples)
    summary |= {"seconds_per_epoch": seconds, "images_per_second": images / seconds}
    with whole(workdir / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=2) + "\n")
    return history, summary


# All runs -----------------------------------------------------------------------------------------


def steps_per_epoch(examples, replicas):
    """The number of batches in an epoch, checked against the flags that depend on it."""
    steps, rest = divmod(examples, FLAGS.batch_size)
    keep = rest > 0 and not FLAGS.drop_remainder
    refuse(steps + keep == 0, f"--drop_remainder of --batch_size leaves none of {examples} images")
    refuse(
        keep and rest < replicas,
        f"--batch_size leaves {rest} images for {replicas} devices: pass --drop_remainder",
    )
    refuse(
        (steps + keep) % FLAGS.steps_per_execution,
        f"--steps_per_execution must divide the {steps + keep} steps of an epoch",
    )
    return steps + keep


def main(_):
    methods, seeds = FLAGS.compare or [FLAGS.method], range(FLAGS.seed, FLAGS.seed + FLAGS.seeds)
    default = f"runs/{FLAGS.dataset}-{FLAGS.model}-{'-'.join(methods)}"
    workdir = Path(FLAGS.workdir or default)
    resume = f"--resume --workdir={shlex.quote(str(workdir))}"
    taken = (workdir / "flags.txt").exists() and not FLAGS.resume
    if taken and not FLAGS.overwrite:
        sys.exit(
            f"{workdir} holds a run: pass {resume} to go on with it, --overwrite to delete it, or "
            "another --workdir."
        )
    strategy = devices()
    try:
        for method in methods:
            optimizer(method, 0, steps=1)  # Its arguments are checked before any work.
        source = data.load(*(FLAGS[name].value for name in DATA_FLAGS))
        steps = steps_per_epoch(source.train.examples, strategy.num_replicas_in_sync)
    except (ValueError, OSError, flags.Error) as error:
        sys.exit(str(error))

    if taken:
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    kept = [
        f for f in OURS if f.value is not None and f.name not in ("workdir", "resume", "overwrite")
    ]
    with whole(workdir / "flags.txt") as path:
        path.write_text("".join(f"{flag.serialize()}\n" for flag in kept))
    print(
        f"{FLAGS.dataset}: {source.train.examples} training and {source.test.examples} test images "
        f"of {source.image_shape}, {source.classes} classes; {steps} steps per epoch\n"
    )

    histories, summaries = {}, {}
    title = f"{FLAGS.model} on {FLAGS.dataset}, batch size {FLAGS.batch_size}"
    try:
        for method in methods:
            for seed in seeds:
                folder = workdir / (method if FLAGS.compare else "")
                folder /= f"seed-{seed}" if FLAGS.seeds > 1 else ""
                print(f"{method}, seed {seed}, into {folder}")
                history, summary = train(method, seed, source, steps, folder, strategy)
                histories.setdefault(method, []).append(history)
                summaries.setdefault(method, []).append(summary)
                plots.curves({method: [history]}, folder / "curves.png", title)
    except KeyboardInterrupt:
        print(f"\nInterrupted. To go on after the last whole epoch:\n  python train.py {resume}")
        sys.exit(130)
    picture = workdir / "curves.png"
    if FLAGS.compare or FLAGS.seeds > 1:
        picture = workdir / "comparison.png"
        plots.curves(histories, picture, title)
    print(f"\n{plots.table(summaries)}\n\nPicture: {picture}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
