"""`Asks`: an optimizer that says where gradients are taken, and what it keeps of them.

A nest of optimizers is asked from the outermost to the innermost: the `evaluate` of each is the
`gradients` of the next one.
"""

import contextlib
import functools

from keras_smoothout import backend
from keras_smoothout.around import chain
from keras_smoothout.moving_statistics import sums_inside
from keras_smoothout.weights import chosen

_handed = {}  # By replica: they are threads, and loss scaling goes on in others.


class Asks:
    """Mixin for an optimizer, around another or not, that asks for gradients by itself.

    `Method` is one, and so is a base optimizer that needs gradients at weights of its choice.
    """

    statistics = "clean"  # Or "perturbed": BatchNormalization's are then those of `gradients`.
    _asked = 0  # Calls of `apply` that are under way and were asked for their gradients.

    def gradients(self, evaluate, weights, step):
        """Return the `Evaluation` whose gradients are applied.

        Args:
            evaluate: Pure function from a list of weights to an `Evaluation` of this batch. Its
                gradients are those of the inner method, or of the loss.
            weights: List of tensors, the weights before the step.
            step: A `Step`: iteration, replica and ghost batch.
        """
        return evaluate(weights)

    def attach(self, model):
        """Note the model that this optimizer is compiled into, if it has to know its layers.

        Args:
            model: A `keras.Model` with our train step, perhaps not built yet.
        """

    def extras(self, weights):
        """Return tensors shaped as those that `gradients` hands on to `update`, a list.

        `gradients` puts as many into `evaluation.extras[self]`, each of them a share of the mean
        over replicas, as gradients are. They are averaged over ghost batches as gradients are.

        Args:
            weights: List of tensors, the weights before the step.
        """
        return []

    def check_asked(self):
        """Raise if this optimizer asks for gradients and the train step did not ask it."""
        if type(self).gradients is not Asks.gradients and not self._asked:
            raise RuntimeError(
                f"`{type(self).__name__}` has to ask for its gradients, but this model's train "
                "step computed them alone. Compile it into `keras_smoothout.wrap(model)`, build "
                "the model as `keras_smoothout.Model(inputs, outputs)`, or mix "
                "`keras_smoothout.TrainStep` into your own class."
            )


def asking(optimizer):
    """The optimizers of a nest that can ask for gradients, the outermost first."""
    return [one for one in chain(optimizer) if isinstance(one, Asks)]


def ask(optimizer, evaluate, weights, step):
    """Return the `Evaluation` that a nest of methods asks for, the outermost first."""
    for method in reversed(asking(optimizer)):
        evaluate = functools.partial(_ask_one, method, evaluate, step)
    return evaluate(weights)


def _ask_one(method, evaluate, step, weights):
    return method.gradients(evaluate, weights, step)


def batch_of(evaluate):
    """Return the `Batch` that `evaluate`, as it is given to `gradients`, asks in the end."""
    while isinstance(evaluate, functools.partial):
        evaluate = evaluate.args[1]
    return evaluate


def now_and_then(evaluate, due, values, others):
    """`values()`, which evaluates again, in a step that is `due`, else `others()`: tensors.

    Only one is computed, except where a pass of the model sums over replicas: TensorFlow refuses
    that in a condition.
    """
    if due is True:
        return values()
    if sums_inside(batch_of(evaluate).model):
        return chosen(due, values(), others())
    return backend.cond(due, values, others)


@contextlib.contextmanager
def asked(optimizer, extras, loss=None):
    """Vouch for the gradients that are applied inside: `ask` has returned them.

    Args:
        optimizer: The outermost optimizer.
        extras: Dictionary from a method to what its `gradients` has handed on.
        loss: Scalar, the loss of the batch. Defaults to `None`.
    """
    methods = asking(optimizer)
    for method in methods:
        method._asked += 1
    _handed[_here()] = extras, loss
    try:
        yield
    finally:
        _handed.pop(_here(), None)
        for method in methods:
            method._asked -= 1


def handed():
    """What the step hands to the updates of this replica.

    Returns:
        Dictionary from an optimizer to its `extras`, means over this replica's examples; and this
        replica's mean loss, or `None` outside of a step.
    """
    return _handed.get(_here(), ({}, None))


def _here():
    replica = backend.replica()
    return replica if isinstance(replica, int) else 0


def keeps_perturbed(optimizer):
    """Whether a method in a nest wants the moving statistics of its own passes."""
    return any(method.statistics == "perturbed" for method in asking(optimizer))
