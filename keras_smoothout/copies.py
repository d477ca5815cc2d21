"""`Copies`: several copies of the weights of a model, trained as one model."""

import keras
import numpy as np
from keras import ops

from keras_smoothout import backend, stacks
from keras_smoothout.checks import check_choice, check_count, check_loss, check_model, received
from keras_smoothout.evaluation import remembered
from keras_smoothout.model import Model
from keras_smoothout.per_copy import check_per_copy
from keras_smoothout.wrap import overridden


@keras.saving.register_keras_serializable("keras_smoothout")
class Copies(Model):
    """Several copies of a model as one model, each with its own weights and its own examples.

        loss_i = loss(w_i; i-th part of the batch)      logged: the mean over i
        g_i = gradient of loss_i

    Each weight is a variable with a leading axis of length `copies`. An elementwise optimizer
    updates each copy as it would update the model alone, and methods such as `ReplicatedSGD` and
    `DPSGD` let the copies see each other. BatchNormalization, dropout masks, regularizers and
    constraints belong to each copy, and so do the norms of SAM, LARS and their relatives.

    Args:
        model: A built `keras.Model`: functional, sequential or subclassed. It is called with the
            weights of each copy in turn. Its own weights never change.
        copies: Number of copies.
        inference: What the model is outside of training: `"centre"`, the model of the mean weights
            and mean moving statistics; `"mean"`, the mean of the outputs of all copies; or the
            index of one copy. Defaults to `"centre"`.
        initial: `"same"` to start all copies from the weights of `model`; `"different"` to draw new
            ones for all but the first, where initializers have no fixed seed. Defaults to `"same"`.
        **kwargs: As for `keras.Model`.

    Raises:
        ValueError: If an argument is not as above; in `compile`, if the optimizer would mix up the
            copies; in `fit`, if a batch has fewer examples than there are copies.

    Cost: `copies` + 1 times the weights and `copies` times the optimizer's state. Each example has
        one gradient, so a step costs what it does for the model alone.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> copies = ks.Copies(model, copies=3)
        >>> copies.compile(ks.ReplicatedSGD(keras.optimizers.SGD(0.1), coupling=0.1), "mse")
        >>> x = np.random.default_rng(0).normal(size=(96, 2))
        >>> history = copies.fit(x, x @ [[1.0], [2.0]], epochs=50, verbose=0)
        >>> [tuple(w.shape) for w in copies.weights], copies.distances().shape
        ([(3, 2, 1), (3, 1)], (3,))
        >>> copies.centre().get_weights()[0].ravel().round(2).tolist()
        [1.0, 2.0]
    """

    def __init__(self, model, copies, inference="centre", initial="same", **kwargs):
        check_model(model)
        check_count("copies", copies)
        check_choice("initial", initial, ("same", "different"))
        own = overridden(model)
        if own or remembered(model) or isinstance(model, Copies):
            raise ValueError(
                "`model` must be trained as Keras trains a model, and remember nothing from batch "
                "to batch: it is called from within another one. Received: a "
                f"{type(model).__name__} with {', '.join(own) or 'stateful layers or copies'}"
            )
        number = isinstance(inference, int) and not isinstance(inference, bool)
        if not (number and 0 <= inference < copies or inference in ("centre", "mean")):
            raise ValueError(
                f"`inference` must be 'centre', 'mean' or an index below {copies}. "
                f"{received('inference', inference)}"
            )
        super().__init__(
            **{"name": f"{model.name}_copies", "dtype": model.dtype_policy, "autocast": False}
            | kwargs
        )
        self.copies, self.inference, self.initial = copies, inference, initial
        others = [
            _fresh(model) if initial == "different" and copy else model for copy in range(copies)
        ]
        values = zip(*(m.variables for m in others), strict=True)
        by_id = {id(vs[0]): stacks.stack(self, vs) for vs in values}
        # Not tracked by Keras: the weights of `model` are not ours.
        vars(self).update(copied=lambda: model, stacked=lambda variable: by_id[id(variable)])
        vars(self).update(_order=tuple(model.variables), _part=None)
        self.built = True

    @property
    def held_copies(self):
        """Number of copies."""
        return self.copies

    def compile(self, *args, **kwargs):
        for variable in self._order:  # What was frozen since.
            self.stacked(variable).trainable = variable.trainable
        super().compile(*args, **kwargs)
        if self.optimizer is not None:
            check_per_copy(self.optimizer)

    def fit(self, x=None, y=None, batch_size=None, *args, **kwargs):
        if isinstance(x, np.ndarray) and "validation_split" not in kwargs:
            size = min(batch_size or 32, len(x))
            for examples in (size, len(x) % size if size else 0):
                stacks.check(examples or self.copies, self.copies)
        return super().fit(x, y, batch_size, *args, **kwargs)

    def call(self, inputs, training=None):
        values = [backend.read(self.stacked(v)) for v in self._order]
        if training:
            return self._train(values, inputs)
        if self.inference == "centre":
            outputs, losses, _ = stacks.run(
                self.copied(), self._order, map(stacks.centre, values), inputs
            )
            self.add_loss(losses)
            return outputs
        chosen = range(self.copies) if self.inference == "mean" else [self.inference]
        runs = [
            stacks.run(self.copied(), self._order, [v[copy] for v in values], inputs)
            for copy in chosen
        ]
        self.add_loss([sum(terms) / len(runs) for terms in zip(*(r[1] for r in runs), strict=True)])
        outputs = [run[0] for run in runs]
        if len(runs) == 1:
            return outputs[0]
        return keras.tree.map_structure(lambda *xs: sum(xs[1:], xs[0]) / len(xs), *outputs)

    def _train(self, values, inputs):
        """Outputs for the batch, part after part; losses and moved variables are kept."""
        model, devices = self.copied(), self._devices()
        if devices is None:
            parts = self._cut(inputs)
            outputs, losses, after = stacks.in_turn(model, self._order, values, parts)
        else:
            outputs, losses, after = stacks.on_devices(model, self._order, values, inputs, *devices)
        for variable, value in zip(self._order, after, strict=True):
            if value is not None:
                self.stacked(variable).assign(value)
        self.add_loss(losses)
        return outputs

    def _devices(self):
        """The mesh, and the name of its axis, that holds a copy on each device, or `None`."""
        return backend.first_axis(self.stacked(self._order[0]))

    def _cut(self, data):
        """The part of `data` of each copy, a list."""
        return stacks.cut(data, self.copies)

    @property
    def losses(self):
        found = super().losses
        if self._part is None:
            return found
        each = len(found) // self.copies
        return found[self._part * each : (self._part + 1) * each]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The mean of the losses of all copies; its gradient is that of their sum."""
        check_loss(self, own=False)
        if not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if self._devices() is not None:
            total = self.copies * super().compute_loss(x, y, y_pred, sample_weight, training)
        else:
            losses = []
            try:
                for part, data in enumerate(
                    zip(*map(self._cut, (x, y, y_pred, sample_weight)), strict=True)
                ):
                    vars(self)["_part"] = part
                    losses.append(super().compute_loss(*data, training))
            finally:
                vars(self)["_part"] = None
            total = sum(losses[1:], losses[0])
        return ops.stop_gradient(total / self.copies) + (total - ops.stop_gradient(total))

    def centre(self):
        """Return a model of the mean weights, uncompiled; `recalibrate` its moving statistics."""
        return self._plain(stacks.centre)

    def copy(self, index):
        """Return a model of the weights and the state of copy `index`, uncompiled."""
        if not (isinstance(index, int) and 0 <= index < self.copies):
            raise ValueError(
                f"`index` must be an integer in [0, {self.copies - 1}]. {received('index', index)}"
            )
        return self._plain(lambda value: value[index])

    def _plain(self, part):
        model = _fresh(self.copied())
        for variable, ours in zip(model.variables, self._order, strict=True):
            variable.assign(part(backend.read(self.stacked(ours))))
        return model

    def distances(self):
        """Return the distance of each copy from the mean weights, an array of shape (copies,)."""
        square = 0.0
        for variable in self.trainable_variables:
            w = ops.convert_to_numpy(variable).astype("float64").reshape(self.copies, -1)
            square = square + np.sum((w - w.mean(0)) ** 2, 1)
        return np.sqrt(square)

    def get_config(self):
        own = {n: getattr(self, n) for n in ("copies", "inference", "initial")}
        model = keras.saving.serialize_keras_object(self.copied())
        return super().get_config() | own | {"model": model}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("model")), **config)


def _fresh(model):
    """A model as `model` with weights drawn again."""
    fresh = keras.models.clone_model(model)
    if not fresh.built:
        fresh.build_from_config(model.get_build_config())
    return fresh
