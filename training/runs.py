"""One run: a model, trained by one method from one seed, for all epochs or those left."""

import contextlib
import functools
import json
import math
import os
import statistics

import keras

import keras_smoothout as ks
import models
from keras_smoothout import datasets
from training import batches, images, methods, records, signals, workdirs

EVALUATION_BATCH = 500
DATA_OPTIONS = ("dataset", "data_dir", "download", "train_split", "test_split", "image_size")
DATA_OPTIONS += ("train_examples", "label_noise")


def load(options):
    """Load the data set that the options name."""
    return images.load(*(getattr(options, name) for name in DATA_OPTIONS))


def described(options):
    """The data set that the options name, of which no image is read.

    Where it is not prepared, it is taken to have one batch to train on, and none to test on.
    """
    if options.dataset == "digits":
        return load(options)
    place = options.data_dir, False, options.image_size
    try:
        train, test = (
            datasets.open_tfds(options.dataset, split, *place)
            for split in (options.train_split, options.test_split)
        )
        if options.train_examples:
            train = datasets.subset(train, options.train_examples)
    except FileNotFoundError:
        _, *kind = datasets.described(options.dataset, options.data_dir, options.image_size)
        train = datasets.Part(options.dataset, options.train_examples or options.batch_size, *kind)
        test = train._replace(examples=0)
    splits = (images.Split(part.examples, None) for part in (train, test))
    return images.Source(*splits, train.shape, train.classes, None, None)


def evaluated(source, split, devices):
    """The images of a split, in batches that the devices can take."""
    return batches.testing(source, split, evaluation_size(split, devices))


def evaluation_size(split, devices):
    """The number of images of a split that the devices take at once."""
    sizes = [EVALUATION_BATCH]
    if devices.even:
        steps = range(devices.replicas, max(sizes) + 1, devices.replicas)
        sizes = [size for size in steps if split.examples % size == 0]
    if not sizes:
        raise ValueError(
            f"{split.examples} images cannot be evaluated in equal batches on {devices.replicas} "
            "devices: choose others by --train_examples, or --test_split=test[:N]."
        )
    return max(sizes)


def network(options, source):
    """Return the network that the options name, before it is compiled."""
    given = {name: getattr(options, name) for name in ("width", "dropout")}
    given = {k: int(v) if v.is_integer() else v for k, v in given.items() if v is not None}
    return models.build(options.model, source.image_shape, source.classes, options.l2, **given)


def check_network(options, source):
    """Raise for options that make no network, or none that fits; no weight is drawn."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            weights = network(options, source).count_params()
    finally:  # Or the next scope would initialize these weights.
        keras.utils.clear_session(free_memory=False)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * weights > memory:
        raise ValueError(
            f"The network has {weights:.3g} weights of 4 bytes, and this machine {memory:.3g} "
            "bytes of memory: choose a smaller --width, --image_size or --model."
        )


def follow(options, seed, source, course, history):
    """Return batches whose size follows the noise scale, after the epochs of `history`."""
    x, y = next(iter(batches.testing(source, source.train, source.train.examples)))
    found = ks.NoiseScaleBatches(
        x.numpy(),
        y.numpy(),
        options.batch_size,
        updates=course.stages[0].steps,
        most=options.largest_batch_size,
        seed=seed,
    )
    scales = [math.nan, *(row["gradient_noise_scale"] for row in history)]
    for epoch, scale in enumerate(scales):
        found.begin(epoch, scale)
    return found


def check_noise_scale(options, devices, source):
    """Raise unless a step has gradients to compare, and batches that follow fit into memory."""
    replicas = devices.replicas if devices.strategy else 1
    ghost = options.ghost_batch_size or math.inf
    parts = 0 < ghost < options.batch_size // replicas and not options.ghost_layers
    if options.track_noise_scale and replicas == 1 and not parts:
        raise ValueError(
            "--track_noise_scale compares the gradients of parts of a batch: pass a "
            "--ghost_batch_size below --batch_size, without --ghost_layers, or a --strategy with "
            f"several replicas. Received: --ghost_batch_size={options.ghost_batch_size} "
            f"--batch_size={options.batch_size} --ghost_layers={options.ghost_layers}"
        )
    if options.largest_batch_size and devices.processes > 1:
        raise ValueError(
            "--largest_batch_size is for one process, in which all devices are. Received: "
            f"{devices.processes} processes"
        )
    size = 4 * source.train.examples * math.prod(source.image_shape)
    if options.largest_batch_size and size > datasets.MEMORY_BYTES:
        raise ValueError(
            "--largest_batch_size needs all training images in memory: pass --train_examples or "
            f"--image_size. Received: {source.train.examples} images of {source.image_shape}"
        )


def build(options, method, seed, source, course):
    """Return a compiled model."""
    keras.config.set_dtype_policy(options.mixed_precision)
    model = network(options, source)
    ghosts = options.ghost_batch_size or None
    model = ks.convert(model, ghosts) if options.ghost_layers else model
    copies = methods.copies(options, method)
    model = ks.Copies(model, copies) if copies > 1 else ks.wrap(model)
    model.compile(
        optimizer=methods.optimizer(options, method, seed, course, model),
        loss=keras.losses.CategoricalCrossentropy(True, options.label_smoothing),
        metrics=["accuracy"],
        ghost_batch_size=None if options.ghost_layers else ghosts,
        jit_compile={"on": True, "off": False}.get(options.jit, "auto"),
        run_eagerly=options.run_eagerly,
        steps_per_execution=options.steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def train(options, method, seed, source, course, workdir, devices):
    """Train for the epochs that are left; return the history and numbers of the final weights."""
    workdir.mkdir(parents=True, exist_ok=True)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    test, training = (evaluated(source, split, devices) for split in (source.test, source.train))
    with devices.scope():
        model = build(options, method, seed, source, course)
        start = [v.numpy() for v in model.trainable_variables]
        checkpoint = ks.callbacks.Checkpoint(
            workdir,
            every_epochs=1,
            every_steps=options.checkpoint_steps,
            every_minutes=options.checkpoint_minutes,
            keep=options.keep_checkpoints,
            best="val_accuracy",
            writes=devices.first,
        )
        history, position = records.restore(model, checkpoint)
    differ = f"The processes see different checkpoints: they must share {workdir}."
    for number in position:
        devices.agree(number, differ)
    callbacks = [records.TerminateOnNaN(workdir)] if options.terminate_on_nan else []
    following = options.largest_batch_size and follow(options, seed, source, course, history)
    if options.track_noise_scale:
        callbacks.append(ks.GradientNoiseScale(batches=following))
    if devices.first and options.track_distance:
        callbacks.append(ks.DistanceFromInit(workdir / "distance.csv", start=start))
    rate = functools.partial(course.rate_at, options)
    callbacks.append(records.Record(workdir, history, rate, devices.first))
    callbacks.append(checkpoint)
    if devices.first:
        callbacks.append(keras.callbacks.TensorBoard(workdir / "tensorboard", write_graph=False))
    callbacks.append(ks.callbacks.Interruption(checkpoint, signals.received))
    signals.check()
    for stage in course.stages:
        epochs = range(max(stage.epochs.start, position.epoch), stage.epochs.stop)
        if not epochs:
            continue
        begun = position.step if epochs.start == position.epoch else 0
        order = (options.augment, seed, options.drop_remainder, begun)
        model.fit(
            following or batches.training(source, stage.batch_size, epochs, *order),
            validation_data=test,
            initial_epoch=epochs.start,
            epochs=epochs.stop,
            steps_per_epoch=None if following else stage.steps,
            shuffle=False,
            verbose=options.verbose if devices.first else 0,
            callbacks=callbacks,
        )
    signals.check()
    with contextlib.ExitStack() as stack:
        if options.recalibrate:  # At the weights that are evaluated, such as an average.
            stack.enter_context(ks.weights_of(model, training))
        summary = {"method": method, "seed": seed, "epochs": course.epochs}
        for split, examples in (("train", training), ("test", test)):
            signals.check()
            numbers = model.evaluate(examples, verbose=0, return_dict=True)
            summary |= {f"{split}_{metric}": value for metric, value in numbers.items()}
        # Without the first epoch, in which the step is compiled.
        times = [row["seconds"] for row in history if math.isfinite(row["seconds"])]
        seconds = statistics.median_low(times[1:] or times or [math.nan])
        last = course.stages[-1]
        shown = min(last.steps * last.batch_size, source.train.examples)
        if following:
            sizes = [row["batch_size"] for row in history]
            shown = last.steps * statistics.median_low(sizes[1:] or sizes)
        summary |= {"seconds_per_epoch": seconds, "images_per_second": shown / seconds}
        if options.track_noise_scale:
            summary["gradient_noise_scale"] = history[-1]["gradient_noise_scale"]
        if devices.first:
            with workdirs.whole(workdir / "model.keras") as path:
                model.save(path)
            with workdirs.whole(workdir / "summary.json") as path:
                path.write_text(json.dumps(summary, indent=2) + "\n")
    return history, summary
