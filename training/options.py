"""The flags of train.py: what they mean, what excludes what, and what a resumed run recalls."""

import functools
import inspect
import math
import re
import sys

import keras
from absl import flags
from etils import epath

import models
from keras_smoothout import scaling
from keras_smoothout.checks import as_flags
from training import batches, methods, workdirs
from training.devices import LOST, STRATEGIES

FLAGS = flags.FLAGS
STORES = ("gs://", "s3://", "az://", "hf://")  # That `epath` knows.
LARGEST = 2**31 - 1  # Of TensorFlow's int32.
switch, real = flags.DEFINE_bool, flags.DEFINE_float
number = functools.partial(flags.DEFINE_integer, upper_bound=LARGEST)
text, texts, choice = flags.DEFINE_string, flags.DEFINE_list, flags.DEFINE_enum


class NumberOrAuto(flags.FloatParser):
    """Parser of a number that `training.auto` can find."""

    syntactic_help = "a number or 'auto'"

    def convert(self, argument):
        try:
            return argument if argument == methods.AUTO else super().convert(argument)
        except (TypeError, ValueError) as error:
            raise ValueError("must be a number or 'auto'") from error


def found(name, default, said):
    said += " 'auto' finds it by a range test."
    flags.DEFINE(NumberOrAuto(), name, default, said, serializer=flags.ArgumentSerializer())


text("dataset", "digits", "'digits', or any image classification set of tfds.")
text("data_dir", None, "Folder of prepared tfds sets (default: that of tfds).")
switch("download", False, "Let tfds download and prepare the set.")
text("train_split", "train", "Split of tfds to train on, such as train[:45000].")
text("test_split", "test", "Split of tfds to test on.")
number("image_size", None, "Height and width, in pixels, that all images are resized to.", 1)
number("train_examples", None, "Number of training examples, the same ones for all seeds.", 1)
real("label_noise", 0.0, "Share of training labels that are wrong, the same for all seeds.", 0, 1)
choice("augment", "none", batches.AUGMENTATIONS, "Random crops, and mirror images.")
real("label_smoothing", 0.0, "Share of each label that is spread over all classes.", 0, 1)

choice("model", "f1", models.NAMES, "Network.")
real(
    "width", None, "Factor of a network's numbers of filters (default: the network's own).", 0, 1000
)
real("dropout", None, "Rate of a network's dropout (default: the network's own).", 0, 1)
real("l2", 0.0, "Weight decay in the loss: adds l2/2 times the squared norm of weights.", 0)

text("method", "sgd", f"{methods.KNOWN}.")
texts("compare", [], "Methods to train in turn, on the same data and seeds.")
number("seeds", 1, "Number of seeds for each method, from --seed on.", 1)
choice(
    "radius_schedule",
    "constant",
    ("constant", "annealed", "tanh"),
    "How the radius changes over the steps.",
)

number(
    "model_copies",
    None,
    "Copies of the weights, each on its own part of the batch (default: 3 for a method that needs "
    "some, else none).",
    1,
)
number("batch_size", 128, "Examples per batch, over all replicas.", 1)
number("ghost_batch_size", 0, "Examples per ghost batch, in one replica; 0 for none.", 0)
switch("ghost_layers", False, "Ghost batches in BatchNormalization alone, not in the whole step.")
number("base_batch_size", None, "Batch size that the recipe is tuned for; rules below adapt it.", 1)
choice("scaling", "sqrt", scaling.RULES, "How the learning rate follows from --base_batch_size.")
switch(
    "regime_adaptation",
    False,
    "Stretch epochs and milestones, for as many updates as at --base_batch_size.",
)
number("small_batch_epochs", 0, "First epochs, at --base_batch_size: a warm start.", 0)
switch("drop_remainder", False, "Leave out the smaller last batch of an epoch.")
number("epochs", 20, "Epochs to train, including those before --resume.", 1)
real("learning_rate", 0.1, "Highest learning rate of the schedule.", 0)
choice(
    "lr_schedule",
    "constant",
    ("constant", "cosine", "piecewise", "polynomial"),
    "Learning-rate schedule.",
)
texts("lr_milestones", [], "Epochs after which piecewise multiplies by --lr_decay.")
real("lr_decay", 0.1, "Factor of piecewise at each milestone.", 0)
real("lr_power", 1.0, "Exponent of polynomial; 1 is a straight line.", 0, 10)
number("warmup_epochs", 0, "First epochs, in which the learning rate rises linearly.", 0)
real("momentum", 0.9, "Momentum of sgd and lars, and of msam's velocity.", 0, 1)
switch("nesterov", False, "Nesterov's momentum.")
real("weight_decay", 0.004, "Decoupled weight decay of adamw.", 0)
real("clipnorm", None, "Clip the norm of each gradient.", 0)
real("global_clipnorm", None, "Clip the norm of all gradients together.", 0)
real("clipvalue", None, "Clip each element of the gradients.", 0)
number("seed", 0, "Seed of weights, order, augmentation, dropout and noise.", 0)

choice("mixed_precision", "float32", ("float32", "mixed_float16", "mixed_bfloat16"), "Precision.")
choice("jit", "auto", ("auto", "on", "off"), "Compile the step with XLA; auto leaves it to Keras.")
switch("run_eagerly", False, "Do not trace the step, for debugging.")
number("steps_per_execution", 1, "Steps per call of the traced function.", 1)
choice("strategy", "default", STRATEGIES, "One device, or a replica on each of many.")
number(
    "devices", 1, "Devices to split a CPU into, for mirrored or data_parallel.", 1, upper_bound=1024
)
text("tpu", None, "Name of the TPU for --strategy=tpu, or 'local' on a TPU VM.")
switch("compile_only", False, "Only compile the step for --topology, and say whether it fits.")
text("topology", None, "TPU chips that need not be there, as in v5e:4x4: their kind and sides.")

switch("recalibrate", False, "Re-estimate moving statistics on the training images at the end.")
text("workdir", None, "Folder of the run (default: runs/<dataset>-<model>-<method>).")
switch("terminate_on_nan", True, "End a run whose loss is not finite; its checkpoint stays.")
switch("track_distance", False, "Record how far the weights go: distance.csv, distance.png.")
switch("track_noise_scale", False, "Record how large a batch is worth it, from ghost batches.")
number(
    "largest_batch_size",
    None,
    "Let the batch size follow the noise scale from epoch to epoch, from --batch_size to this.",
    1,
)
switch("resume", False, "Continue the run in --workdir, with its flags except those given.")
switch("resume_or_begin", False, "--resume if --workdir holds a run: for jobs that are restarted.")
number(
    "keep_checkpoints", 2, "Newest checkpoints to keep, in addition to that of the best epoch.", 1
)
number("checkpoint_steps", None, "Save within epochs, too: after so many steps.", 1)
real("checkpoint_minutes", None, "Save within epochs, too: after so many minutes.", 0)
switch("overwrite", False, "Delete the run in --workdir first.")
number("verbose", 1, "0: no progress, 1: progress bars, 2: a line per epoch.", 0, upper_bound=2)

flags.register_validator(
    "lr_milestones",
    lambda epochs: all(e.isdecimal() and len(e) <= 10 for e in epochs),  # That of LARGEST.
    "must be whole epochs, as in 50,75",
)

for name in ("workdir", "data_dir"):
    flags.register_validator(
        name,
        lambda path: not path or "://" not in path or path.startswith(STORES),
        f"must be a folder, or one in a store: {', '.join(STORES)}",
    )

KINDS = {bool: switch, int: number, float: real, str: text, tuple: texts, type(None): real}
for option, default, said in methods.generated():  # Those that the methods' constructors take.
    if option not in FLAGS:
        kind = found if option in ("radius", "rho") else KINDS[type(default)]
        kind(option, None, said)

OURS = FLAGS.flags_by_module_dict()[__name__]
CHANGEABLE = ("epochs", "workdir", "resume", "resume_or_begin", "data_dir", "download", "verbose")
CHANGEABLE += (
    "checkpoint_steps",
    "checkpoint_minutes",
    "keep_checkpoints",
    "terminate_on_nan",
    "tpu",
    "compile_only",
    "topology",
)


def parse(argv):
    """Read the flags, or exit with what is wrong with them."""
    try:
        for flag in OURS:
            flag.unparse()
        rest = FLAGS(argv)
        if FLAGS.resume_or_begin and FLAGS.workdir:
            FLAGS.resume = saved_flags() is not None
        if FLAGS.resume and FLAGS.workdir:
            recall({flag.name: flag.value for flag in OURS if flag.present})
        check(FLAGS)
        if rest[1:]:
            raise flags.Error(f"train.py takes flags only. Received: {' '.join(rest[1:])}")
        return rest
    except (flags.Error, ValueError) as error:  # A --flagfile that is no text, too.
        sys.exit(f"{error}\nAll flags are explained by: python train.py --help")


def recall(given):
    """Set all flags to those of the run in the workdir, except those that can be given again."""
    saved = saved_flags()
    if saved is None:
        raise flags.Error(f"there is no run to --resume in {FLAGS.workdir}: flags.txt is missing")
    for flag in OURS:
        flag.unparse()
    FLAGS(["", *saved.splitlines()])
    FLAGS.resume = True
    for name, value in given.items():
        own = FLAGS[name].value
        value = own if value == methods.AUTO else value  # What it found is kept.
        if name not in CHANGEABLE and value != own:
            raise flags.Error(
                f"--{name} cannot change on --resume: leave it out, or begin a run in another "
                f"--workdir. Received: --{name}={value} for a run with {own}"
            )
        if name == "epochs" and value < own:
            raise flags.Error(f"--epochs can only be raised from {own}. Received: --epochs={value}")
        FLAGS[name].value = value


def saved_flags():
    """The flags of the run in the workdir, or `None`."""
    try:
        return workdirs.read_flags(epath.Path(FLAGS.workdir))
    except (ValueError, OSError, *LOST) as error:
        sys.exit(f"{error}")


def spelled(message):
    """Rewrite a message about arguments as one about flags."""
    return as_flags(message, FLAGS)


def kept():
    """The flags that make a run, one per line."""
    dropped = ("workdir", "resume", "resume_or_begin", "overwrite", "compile_only", "topology")
    given = [f for f in OURS if f.value is not None and f.name not in dropped]
    return "".join(f"{flag.serialize()}\n" for flag in given)


def check(f):
    """Raise for flags that exclude each other or that no method uses."""
    names, backend = f.compare or [f.method], keras.backend.backend()
    theirs = "jax" if f.strategy == "data_parallel" else "tensorflow"
    split = f.strategy in ("mirrored", "data_parallel")
    epochs = [0, *map(int, f.lr_milestones), f.epochs]
    based = ("scaling", "regime_adaptation", "small_batch_epochs")
    for flag in OURS:
        finite = not isinstance(flag.value, float) or math.isfinite(flag.value)
        refuse(not finite, f"--{flag.name} must be finite")
        lines = flag.serialize().splitlines()  # flags.txt has one per flag.
        refuse(len(lines) > 1, f"--{flag.name} must be on one line")
    refuse(f.resume and not f.workdir, "--resume needs --workdir, the folder of the run")
    wanting = f.radius_schedule != "constant" and f.radius is None
    refuse(wanting, "--radius_schedule needs --radius, which it starts from or tends to")
    refuse(f.compare and f.method != "sgd", "--compare and --method exclude each other")
    refuse(len(set(names)) < len(names), "--compare must name each method once")
    if not all(re.fullmatch(methods.PATTERN, name) for name in names):
        refuse(True, f"--{'compare' if f.compare else 'method'} takes {methods.KNOWN}")
    for name in {"width", "dropout"} - set(inspect.signature(models.BUILDERS[f.model]).parameters):
        refuse(f[name].value is not None, f"--{name} means nothing to this --model")
    for name in ("train_split", "test_split", "download") if f.dataset == "digits" else ():
        refuse(f[name].value != f[name].default, f"--{name} needs a --dataset of tfds")
    for name in methods.CLIPS:
        refuse(f[name].value == 0, f"--{name} must be more than 0: leave it out not to clip")
    refuse(
        bool(f.lr_milestones) != (f.lr_schedule == "piecewise"),
        "--lr_milestones and --lr_schedule=piecewise need each other",
    )
    refuse(epochs != sorted(set(epochs)), "--lr_milestones must rise, from 1 to below --epochs")
    for name in based if f.base_batch_size is None else ():
        refuse(f[name].value != f[name].default, f"--{name} needs --base_batch_size")
    refuse(f.small_batch_epochs >= f.epochs, "--small_batch_epochs must be less than --epochs")
    copies = max(methods.copies(f, name) for name in names)
    for name in ("clipnorm", "global_clipnorm") if copies > 1 else ():
        refuse(f[name].value is not None, f"--{name} would be that of all --model_copies together")
    refuse(f.recalibrate and copies > 1, "--recalibrate is not for --model_copies")
    refuse(f.ghost_layers and not f.ghost_batch_size, "--ghost_layers needs --ghost_batch_size")
    refuse(f.ghost_batch_size == 1, "--ghost_batch_size must be 2 at least: one has no variance")
    for name, schedule in (("lr_decay", "piecewise"), ("lr_power", "polynomial")):
        idle = f.lr_schedule != schedule and f[name].value != f[name].default
        refuse(idle, f"--{name} needs --lr_schedule={schedule}")
    follows = f.largest_batch_size is not None
    refuse(follows and not f.track_noise_scale, "--largest_batch_size needs --track_noise_scale")
    small = follows and f.largest_batch_size < f.batch_size
    refuse(small, "--largest_batch_size must not be below --batch_size")
    for name in ("base_batch_size", "augment", "drop_remainder") if follows else ():
        idle = f[name].value != f[name].default
        refuse(idle, f"--{name} and --largest_batch_size exclude each other")
    refuse(f.warmup_epochs >= f.epochs, "--warmup_epochs must be less than --epochs")
    refuse(f.ghost_batch_size > f.batch_size, "--ghost_batch_size must not exceed --batch_size")
    refuse(f.resume_or_begin and not f.workdir, "--resume_or_begin needs --workdir")
    remote = workdirs.remote(f.workdir)
    refuse(f.track_distance and remote, "--track_distance needs a local --workdir")
    refuse(
        f.overwrite and f.resume_or_begin, "--overwrite and --resume_or_begin exclude each other"
    )
    refuse(f.devices > f.batch_size, "--devices must not exceed --batch_size")
    refuse(f.devices > 1 and not split, "--devices needs --strategy=mirrored or data_parallel")
    refuse(
        f.strategy != "default" and backend != theirs,
        f"--strategy={f.strategy} needs KERAS_BACKEND={theirs}",
    )
    refuse((f.tpu is None) == (f.strategy == "tpu"), "--tpu and --strategy=tpu need each other")
    refuse(
        f.strategy == "tpu" and not f.drop_remainder,
        "--strategy=tpu needs --drop_remainder: shapes on a TPU are static",
    )
    absent, parallel = f.topology is not None, f.strategy == "data_parallel"
    refuse(f.compile_only != absent, "--compile_only and --topology need each other")
    refuse(absent and not parallel, "--compile_only needs --strategy=data_parallel")
    refuse(absent and f.devices > 1, "--topology and --devices exclude each other")
    refuse(
        absent and (f.run_eagerly or f.jit == "off"),
        "--compile_only needs a compiled step: leave out --jit=off and --run_eagerly",
    )
    for strategy in ("mirrored", "multi_worker"):
        wrong = f.strategy == strategy and f.jit == "on"
        refuse(wrong, f"--strategy={strategy} and --jit=on exclude each other")
    refuse(f.run_eagerly and f.jit == "on", "--run_eagerly and --jit=on exclude each other")
    for name in methods.OPTIONS.difference(*map(methods.used, names)):
        idle = f[name].value != f[name].default
        refuse(idle, f"--{name} means nothing to the method {' or '.join(names)}")


def refuse(wrong, message):
    """Raise `message` if something is `wrong`, with the values of the flags that it names."""
    if wrong:
        named = re.findall(r"--(\w+)", message)
        raise flags.Error(f"{message}. Received: {' '.join(FLAGS[n].serialize() for n in named)}")
