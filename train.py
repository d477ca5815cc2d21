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

import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # No chatter of TensorFlow's start.

from absl import app, flags

from training import courses, methods, options, plots, records, runs
from training.options import FLAGS

flags.adopt_module_key_flags(options)  # --help shows those of the main module.


def main(_):
    names, seeds = FLAGS.compare or [FLAGS.method], range(FLAGS.seed, FLAGS.seed + FLAGS.seeds)
    default = f"runs/{FLAGS.dataset}-{FLAGS.model}-{'-'.join(names)}"
    workdir = Path(FLAGS.workdir or default)
    resume = f"--resume --workdir={shlex.quote(str(workdir))}"
    taken = (workdir / "flags.txt").exists() and not FLAGS.resume
    if taken and not FLAGS.overwrite:
        sys.exit(
            f"{workdir} holds a run: pass {resume} to go on with it, --overwrite to delete it, or "
            "another --workdir."
        )
    strategy = runs.devices(FLAGS)
    try:
        course = courses.plan(FLAGS, FLAGS.batch_size * FLAGS.steps_per_execution)
        for method in names:  # Checked before any work.
            methods.optimizer(FLAGS, method, 0, course)
        source = runs.load(FLAGS)
        course = courses.plan(FLAGS, source.train.examples, strategy.num_replicas_in_sync)
        if taken:
            shutil.rmtree(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, flags.Error) as error:
        sys.exit(str(error))

    dropped = ("workdir", "resume", "overwrite")
    kept = [f for f in options.OURS if f.value is not None and f.name not in dropped]
    with records.whole(workdir / "flags.txt") as path:
        path.write_text("".join(f"{flag.serialize()}\n" for flag in kept))
    print(
        f"{FLAGS.dataset}: {source.train.examples} training and {source.test.examples} test images "
        f"of {source.image_shape}, {source.classes} classes\n{course}\n"
    )

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # A preemption is as good as Ctrl-C.
    histories, summaries = {}, {}
    title = f"{FLAGS.model} on {FLAGS.dataset}, batch size {FLAGS.batch_size}"
    try:
        for method in names:
            for seed in seeds:
                folder = workdir / (method if FLAGS.compare else "")
                folder /= f"seed-{seed}" if FLAGS.seeds > 1 else ""
                print(f"{method}, seed {seed}, into {folder}")
                history, summary = runs.train(FLAGS, method, seed, source, course, folder, strategy)
                histories.setdefault(method, []).append(history)
                summaries.setdefault(method, []).append(summary)
                plots.curves({method: [history]}, folder / "curves.png", title)
                if FLAGS.track_distance:
                    plots.distances(folder / "distance.csv", folder / "distance.png", title)
    except (FloatingPointError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print(f"\nInterrupted. To go on after the last whole epoch:\n  python train.py {resume}")
        sys.exit(130)
    picture = workdir / "curves.png"
    if FLAGS.compare or FLAGS.seeds > 1:
        picture = workdir / "comparison.png"
        plots.curves(histories, picture, title)
    print(f"\n{plots.table(summaries)}\n\nPicture: {picture}")


if __name__ == "__main__":
    app.run(main, flags_parser=options.parse)
