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


def build(options, method, seed, source, course):
    """A compiled model."""
    keras.config.set_dtype_policy(options.mixed_precision)
    model = models.build(options.model, source.image_shape, source.classes, l2=options.l2)
    ghosts = options.ghost_batch_size or None
    model = ks.wrap(ks.convert(model, ghosts) if options.ghost_layers else model)
    model.compile(
        optimizer=methods.optimizer(options, method, seed, course),
        loss=keras.losses.CategoricalCrossentropy(True, options.label_smoothing),
        metrics=["accuracy"],
        ghost_batch_size=None if options.ghost_layers else ghosts,
        jit_compile={"on": True, "off": False}.get(options.jit, "auto"),
        run_eagerly=options.run_eagerly,
        steps_per_execution=options.steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def train(options, method, seed, source, course, workdir, strategy):
    """One run, or what is left of it. Returns its history and the numbers of its final weights."""
    workdir.mkdir(parents=True, exist_ok=True)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        model = build(options, method, seed, source, course)
        start = [v.numpy() for v in model.trainable_variables]
        history = records.restore(model, workdir)
    test = batches.testing(source, source.test, EVALUATION_BATCH)
    callbacks = [
        records.Record(workdir, history),
        records.Interruption(),
        keras.callbacks.TensorBoard(workdir / "tensorboard", write_graph=False),
    ]
    if options.terminate_on_nan:
        callbacks.append(records.TerminateOnNaN(workdir))
    if options.track_distance:
        callbacks.insert(0, ks.DistanceFromInit(workdir / "distance.csv", start=start))
    for stage in course.stages:
        epochs = range(max(stage.epochs.start, len(history)), stage.epochs.stop)
        if not epochs:
            continue
        order = (options.augment, seed, options.drop_remainder)
        model.fit(
            batches.training(source, stage.batch_size, epochs, *order),
            validation_data=test,
            initial_epoch=epochs.start,
            epochs=epochs.stop,
            steps_per_epoch=stage.steps,
            shuffle=False,
            verbose=options.verbose,
            callbacks=callbacks,
        )
    with records.whole(workdir / "model.keras") as path:
        model.save(path)
    training = batches.testing(source, source.train, EVALUATION_BATCH)
    summary = {"method": method, "seed": seed, "epochs": course.epochs}
    for split, examples in (("train", training), ("test", test)):
        numbers = model.evaluate(examples, verbose=0, return_dict=True)
        summary |= {f"{split}_{metric}": value for metric, value in numbers.items()}
    # Not of the first epoch, in which the step is compiled.
    seconds = statistics.median_low(row["seconds"] for row in history[1:] or history)
    last = course.stages[-1]
    images = min(last.steps * last.batch_size, source.train.examples)
    summary |= {"seconds_per_epoch": seconds, "images_per_second": images / seconds}
    with records.whole(workdir / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=2) + "\n")
    return history, summary
