"""How a train step asks a nest of methods: for gradients, and for weights to evaluate."""

import contextlib
import functools

from keras_smoothout.around import chain
from keras_smoothout.method import Method, handed


def ask(optimizer, evaluate, weights, step):
    """Return the `Evaluation` that a nest of methods asks for, the outermost first."""
    for method in reversed(chain(optimizer)):
        if isinstance(method, Method):
            evaluate = functools.partial(_ask_one, method, evaluate, step)
    return evaluate(weights)


def _ask_one(method, evaluate, step, weights):
    return method.gradients(evaluate, weights, step)


@contextlib.contextmanager
def asked(optimizer, loss=None):
    """Vouch for the gradients that are applied inside: `ask` has returned them, and the `loss`."""
    methods = [method for method in chain(optimizer) if isinstance(method, Method)]
    for method in methods:
        method._asked += 1
    handed.loss = loss
    try:
        yield
    finally:
        handed.loss = None
        for method in methods:
            method._asked -= 1


def evaluation_weights(optimizer):
    """Return the weights to evaluate with by the outermost method that has any, or `None`."""
    optimizers = chain(optimizer) if optimizer is not None else []
    methods = [method for method in optimizers if isinstance(method, Method)]
    wanted = (method.evaluation_weights() for method in methods if method.built)
    return next((weights for weights in wanted if weights is not None), None)


def keeps_perturbed(optimizer):
    """Whether a method in a nest wants the moving statistics of its own passes."""
    methods = [method for method in chain(optimizer) if isinstance(method, Method)]
    return any(method.statistics == "perturbed" for method in methods)
