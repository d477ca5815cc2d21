"""`Batches`: a data set that can be read again and again, batch by batch."""

import functools

import keras
import numpy as np
from keras.utils import unpack_x_y_sample_weight

from keras_smoothout.checks import check_ends
from keras_smoothout.evaluation import present, rows_of
from keras_smoothout.labels import check_targets, outputs_of


class Batches:
    """Batches `(x, y, sample_weight)` in the order of the data.

    Args:
        model: The `keras.Model` that they are for.
        x: Array or nest of arrays; or, without `y`, batches: a `tf.data.Dataset`,
            `keras.utils.PyDataset` or another iterable that starts again each time. Without `y`, a
            list of arrays is refused unless the model is known to have several inputs.
        y: Array or nest of arrays, or `None`.
        sample_weight: Array or nest of arrays, or `None`.
        batch_size: Number of examples in a batch, if `x` is an array.
        loss: Says what labels can be, or `None` for the compiled one.

    Labels of a sparse crossentropy must be classes of the model. Floating-point arrays are cast to
    the dtype of the model's variables; others keep their dtype.
    """

    def __init__(self, model, x, y, sample_weight, batch_size, loss=None):
        self._dtype = model.variable_dtype
        self.model, self._specs = model, None
        self._loss = model.loss if loss is None else loss
        if y is not None or _is_nest_of_arrays(model, x):
            arrays = (x, y, sample_weight)
            self._start = functools.partial(_slices, arrays, batch_size)
            lengths = {len(a) for a in present(arrays)}
            if len(lengths) > 1 or 0 in lengths:
                raise ValueError(
                    "`x`, `y` and `sample_weight` must have the same number of examples, at least "
                    f"1. Received: lengths {sorted(lengths)}"
                )
            (self.examples,) = lengths
            next(iter(self))  # Now the outputs are known.
            self._check_labels(*arrays)
            return
        if sample_weight is not None:
            raise ValueError(
                "`sample_weight` goes with arrays; batches hold their own, (x, y, sample_weight)."
            )
        check_ends("x", x)
        if isinstance(x, keras.utils.PyDataset):
            self._start = lambda: (x[i] for i in range(x.num_batches))
        elif hasattr(x, "__iter__") and iter(x) is not x:
            self._start = lambda: iter(x)
        else:
            raise ValueError(
                "`x` must be arrays, or batches that can be gone through more than once: a "
                "`tf.data.Dataset`, a `keras.utils.PyDataset`, a list; not a generator. "
                f"Received: x={x!r}"
            )

    @functools.cached_property
    def examples(self):
        """Number of examples; batches are read once to count them."""
        return sum(map(count, self))

    def __iter__(self):
        empty = True
        for batch in self._start():
            batch = keras.tree.map_structure(self._standardize, unpack_x_y_sample_weight(batch))
            if count(batch):
                empty = False
                self._check_labels(*batch)
                yield batch
        if empty:
            raise ValueError("The data must hold at least one batch of examples. Received: none")

    def _check_labels(self, x, y, sample_weight):
        if y is None:
            return
        numbers = keras.tree.map_structure(
            lambda a: a if a is None else keras.ops.convert_to_numpy(a), (y, sample_weight)
        )
        check_targets("y", self.model, self._loss, *numbers, outputs=self._outputs(x))

    def _outputs(self, x):
        """The outputs of a model that knows none itself, without their values."""
        if self._specs is None:  # Those of the first batch.
            self._specs = outputs_of(self.model, x)
        return self._specs

    def _standardize(self, array):
        if array is None:
            return None
        if not keras.ops.is_tensor(array):
            array = np.asarray(array)
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(array.dtype)):
            return keras.ops.cast(array, self._dtype)
        return array


def count(batch):
    """Number of examples in one batch."""
    return present(batch)[0].shape[0]


def _is_array(x):
    return x is None or hasattr(x, "shape")


def _is_nest_of_arrays(model, x):
    if not isinstance(x, (list, tuple)):
        return all(map(_is_array, keras.tree.flatten(x)))
    if not x or not all(map(_is_array, x)):
        return False
    if len(getattr(model, "inputs", None) or ()) < 2:
        raise ValueError(
            "A list of arrays may hold inputs or batches: give several inputs as a dict or with "
            f"`y`, and batches as tuples, [(x,), ...]. Received: x with {len(x)} arrays"
        )
    return True


def _slices(arrays, size):
    for start in range(0, len(present(arrays)[0]), size):
        yield rows_of(arrays, slice(start, start + size))
