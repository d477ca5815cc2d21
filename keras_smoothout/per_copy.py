"""What is done to each of several copies of the weights: constraints, and which optimizers may."""

import keras
from keras import ops, optimizers

from keras_smoothout.around import chain

# Optimizers of Keras that treat each element of a weight alone.
ELEMENTWISE = ("SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Nadam")
ELEMENTWISE += ("Ftrl", "Lion")


@keras.saving.register_keras_serializable("keras_smoothout")
class PerCopy(keras.constraints.Constraint):
    """The `constraint` of a weight, for each of its copies along the first axis.

    Args:
        constraint: A Keras constraint.
    """

    def __init__(self, constraint):
        self.constraint = keras.constraints.get(constraint)

    def __call__(self, w):
        w = ops.convert_to_tensor(w)
        return ops.stack([self.constraint(copy) for copy in ops.unstack(w, w.shape[0])])

    def get_config(self):
        return {"constraint": keras.saving.serialize_keras_object(self.constraint)}


def check_per_copy(optimizer):
    """Raise unless every optimizer of a nest does to each copy what it does to a model alone."""
    for inside in chain(optimizer):
        name = type(inside).__name__
        if isinstance(inside, optimizers.LossScaleOptimizer):
            continue  # An overflow in one copy skips the step of all.
        elementwise = type(inside) in [getattr(optimizers, n) for n in ELEMENTWISE]
        if not getattr(type(inside), "per_copy", elementwise):
            raise ValueError(
                f"`optimizer` must treat each of the `Copies` alone, and `{name}` is not known to: "
                "a norm would be that of all copies together, for example. Train the copies by "
                "another optimizer, or models one by one by this one. A class of your own that is "
                "elementwise, or takes "
                "`keras_smoothout.weights.norm(weights, copies)`, says so by `per_copy = True`. "
                f"Received: optimizer={name}"
            )
    for name in ("clipnorm", "global_clipnorm"):
        value = getattr(chain(optimizer)[-1], name, None)
        if value is not None:
            raise ValueError(
                f"`{name}` would clip by the norm of all copies together: leave it out, or use "
                f"`clipvalue`. Received: {name}={value}"
            )
