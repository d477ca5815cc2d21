"""Trains an image classifier with SmoothOut, SAM, Lookahead or plain SGD, and compares them.

Examples:
  # Handwritten digits, which need no download: SGD against SmoothOut with a large batch.
  python train.py --compare=sgd,smoothout --radius=0.02 --batch_size=720 --epochs=30

  # ResNet-20 on CIFAR-10, large batch with ghost batches; fetches the data on the first run.
  python train.py --dataset=cifar10 --download --model=resnet20 --method=smoothout --radius=0.01
      --batch_size=2048 --ghost_batch_size=128 --epochs=100 --augment=crop_flip --l2=1e-4
      --lr_schedule=piecewise --lr_milestones=50,75

  # Methods nest, the outermost first; the last one can be a base optimizer (else it is sgd).
  python train.py --method=lookahead+smoothout+adam --learning_rate=0.001

  # Continue an interrupted run, or train a finished one for longer.
  python train.py --resume --workdir=runs/digits-f1-sgd --epochs=100

  # See whether a run fits a TPU pod, on any machine with pip install "jax[tpu]" (docs/tpu.md).
  KERAS_BACKEND=jax python train.py --compile_only --topology=v5e:4x4 --strategy=data_parallel
      --dataset=cifar10 --model=resnet20 --batch_size=4096 --drop_remainder

  # Repeat a run: all of its flags are in its flags.txt.
  python train.py --flagfile=runs/digits-f1-sgd/flags.txt --workdir=runs/again

A run leaves in its workdir: flags.txt, metrics.csv (a row per epoch), tensorboard/, the newest
checkpoints, model.keras, summary.json and curves.png. With --compare or --seeds there is a folder
per run, and comparison.png and comparison.html for all of them. The training loss and accuracy of
an epoch are means over its steps, at the weights where the method evaluates them. The closing table
is for the final, clean weights.
"""

import contextlib
import math
import os
import shlex
import sys

from training import signals

if __name__ == "__main__":
    signals.listen()  # Before the imports that take seconds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # No start-up messages of TensorFlow.

from absl import app, flags
from etils import epath

from training import (
    auto,
    compile_only,
    courses,
    curves,
    devices,
    methods,
    options,
    report,
    runs,
    workdirs,
)
from training.options import FLAGS

flags.adopt_module_key_flags(options)  # --help shows those of the main module.


@signals.noted()
def main(_):
    names, seeds = FLAGS.compare or [FLAGS.method], range(FLAGS.seed, FLAGS.seed + FLAGS.seeds)
    default = f"runs/{FLAGS.dataset}-{FLAGS.model}-{'-'.join(names)}"
    workdir = epath.Path(FLAGS.workdir or default)
    resume = f"--resume --workdir={shlex.quote(str(workdir))}"
    begun, advice = False, f"To continue from the last checkpoint:\n  python train.py {resume}"
    try:
        signals.check()
        there = devices.opened(FLAGS)
        signals.listen()  # JAX takes SIGTERM for itself where it has several processes.
        signals.check()
        sizes = FLAGS.batch_size, FLAGS.base_batch_size or 1
        course = courses.plan(FLAGS, math.lcm(*sizes) * FLAGS.steps_per_execution)
        for method in names:  # Checked before any work.
            methods.optimizer(FLAGS, method, 0, course)
        auto.check(FLAGS, names, course, there)
        source = (runs.described if FLAGS.compile_only else runs.load)(FLAGS)
        runs.check_noise_scale(FLAGS, there, source)
        runs.check_network(FLAGS, source)
        course = courses.plan(FLAGS, source.train.examples, there)
        methods.settle(FLAGS, names, course)
        signals.check()
        if FLAGS.compile_only:
            return compile_only.report(FLAGS, names, source, course, there)
        with workdirs.locked(workdir) if there.first else contextlib.nullcontext():
            if there.first:
                workdirs.prepare(workdir, options.kept(), FLAGS.resume, FLAGS.overwrite)
                print(
                    f"{FLAGS.dataset}: {source.train.examples} training and {source.test.examples} "
                    f"test images of {source.image_shape}, {source.classes} classes\n{course}\n"
                )
            there.agree(0, "")  # The others wait for the workdir.
            begun = True
            search(names, workdir, source, course)
            train(names, seeds, workdir, source, course, there)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {advice if begun else 'Nothing was trained.'}")
        sys.exit(130)
    except (ValueError, OSError, MemoryError, FloatingPointError, flags.Error) as error:
        message = options.spelled(str(error))
        sys.exit(f"{message}\n{advice}" if begun and isinstance(error, OSError) else message)
    except devices.LOST as error:
        if not begun:  # An object store that cannot be reached.
            sys.exit(str(error))
        if devices.cause(error):
            sys.exit(f"{devices.cause(error)}\n{advice}")
        if there.processes == 1:
            raise
        sys.exit(f"{error}\nA worker is lost: start all of them again. {advice}")


def search(names, workdir, source, course):
    """Find the options that are "auto", and write them down as the run's own."""
    for name, found in auto.find(FLAGS, names, source, course).items():
        FLAGS[name].value = float(f"{found.radius:.3g}")
        print(f"{auto.said(name, found)}\n")
        draw(curves.search, found, workdir / f"{name}.png", name)
        workdirs.write_flags(workdir, options.kept())


def train(names, seeds, workdir, source, course, there):
    """Train each method with each seed; the first process draws and prints how they compare."""
    histories, summaries = {}, {}
    title = f"{FLAGS.model} on {FLAGS.dataset}, batch size {FLAGS.batch_size}"
    say = print if there.first else lambda *_: None
    for method in names:
        for seed in seeds:
            folder = workdir / (method if FLAGS.compare else "")
            folder /= f"seed-{seed}" if FLAGS.seeds > 1 else ""
            say(f"{method}, seed {seed}, into {folder}")
            history, summary = runs.train(FLAGS, method, seed, source, course, folder, there)
            histories.setdefault(method, []).append(history)
            summaries.setdefault(method, []).append(summary)
            if there.first:
                draw(curves.learning, {method: [history]}, folder / "curves.png", title)
            if there.first and FLAGS.track_distance:
                draw(curves.distances, folder / "distance.csv", folder / "distance.png", title)
    picture = workdir / "curves.png"
    if there.first and (FLAGS.compare or FLAGS.seeds > 1):
        picture = workdir / "comparison.png"
        draw(curves.learning, histories, picture, title)
        report.write((histories, summaries, options.kept()), workdir / "comparison.html", title)
    worth = "\n".join(curves.worth(summaries, FLAGS.batch_size))
    closing = [f"\n{curves.table(summaries)}", *[worth] * bool(worth), f"Picture: {picture}"]
    say("\n\n".join(closing))


def draw(plot, data, picture, title):
    with workdirs.whole(picture) as path:
        plot(data, path, title)


if __name__ == "__main__":
    app.run(main, flags_parser=options.parse)
