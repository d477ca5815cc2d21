"""One run: a model, trained by one method from one seed, or what is left of its epochs."""

import json
import statistics

import keras
import tensorflow as tf

import keras_smoothout as ks
import models
from training import batches, data, methods, records

EVALUATION_BATCH = 500
DATA_OPTIONS = ("dataset", "data_dir", "download", "train_split", "test_split", "image_size")
DATA_OPTIONS += ("train_examples",)


def load(options):
    """The data set that the options name."""
    return data.load(*(getattr(options, name) for name in DATA_OPTIONS))


def devices(options):
    """The scope to build models in, of one device or of a replica on each."""
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # tf.data leaves the GPU to the backend.
    if options.devices > 1:
        logical = [tf.config.LogicalDeviceConfiguration()] * options.devices
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], logical
        )
    if options.strategy == "default":
        return tf.distribute.get_strategy()
    tf.get_logger().setLevel("WARNING")  # MirroredStrategy would tell of every variable.
    kind = "GPU" if options.devices == 1 and tf.config.list_physical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([d.name for d in tf.config.list_logical_devices(kind)])


def steps_per_epoch(options, source, strategy):
    """The number of batches in an epoch, checked against the options that depend on it."""
    examples, replicas = source.train.examples, strategy.num_replicas_in_sync
    steps, rest = divmod(examples, options.batch_size)
    keep = rest > 0 and not options.drop_remainder
    received = f"Received: --batch_size={options.batch_size}"
    if steps + keep == 0:
        raise ValueError(f"--drop_remainder leaves none of {examples} images. {received}")
    if keep and rest < replicas:
        raise ValueError(
            f"--batch_size leaves {rest} images for {replicas} devices: pass --drop_remainder. "
            f"{received}"
        )
    if (steps + keep) % options.steps_per_execution:
        raise ValueError(
            f"--steps_per_execution must divide the {steps + keep} steps of an epoch. "
            f"Received: --steps_per_execution={options.steps_per_execution}"
        )
    return steps + keep


def build(options, method, seed, source, steps):
    """A compiled model; an epoch has so many steps."""
    keras.config.set_dtype_policy(options.mixed_precision)
    model = ks.wrap(models.build(options.model, source.image_shape, source.classes, l2=options.l2))
    model.compile(
        optimizer=methods.optimizer(options, method, seed, steps),
        loss=keras.losses.CategoricalCrossentropy(True, options.label_smoothing),
        metrics=["accuracy"],
        ghost_batch_size=options.ghost_batch_size or None,
        jit_compile={"on": True, "off": False}.get(options.jit, "auto"),
        run_eagerly=options.run_eagerly,
        steps_per_execution=options.steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def train(options, method, seed, source, steps, workdir, strategy):
    """One run, or what is left of it. Returns its history and the numbers of its final weights."""
    workdir.mkdir(parents=True, exist_ok=True)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        model = build(options, method, seed, source, steps)
        history = records.restore(model, workdir)
    test = batches.testing(source, source.test, EVALUATION_BATCH)
    if len(history) < options.epochs:
        epochs = range(len(history), options.epochs)
        augment, drop_remainder = options.augment, options.drop_remainder
        model.fit(
            batches.training(source, options.batch_size, epochs, augment, seed, drop_remainder),
            validation_data=test,
            initial_epoch=epochs.start,
            epochs=epochs.stop,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=options.verbose,
            callbacks=[
                records.Record(workdir, history),
                keras.callbacks.TensorBoard(workdir / "tensorboard", write_graph=False),
            ],
        )
    with records.whole(workdir / "model.keras") as path:
        model.save(path)
    training = batches.testing(source, source.train, EVALUATION_BATCH)
    summary = {"method": method, "seed": seed, "epochs": options.epochs}
    for split, examples in (("train", training), ("test", test)):
        numbers = model.evaluate(examples, verbose=0, return_dict=True)
        summary |= {f"{split}_{metric}": value for metric, value in numbers.items()}
    # Not of the first epoch, in which the step is compiled.
    seconds = statistics.median_low(row["seconds"] for row in history[1:] or history)
    images = min(steps * options.batch_size, source.train.examples)
    summary |= {"seconds_per_epoch": seconds, "images_per_second": images / seconds}
    with records.whole(workdir / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=2) + "\n")
    return history, summary
