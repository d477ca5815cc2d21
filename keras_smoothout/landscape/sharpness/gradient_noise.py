"""How the gradients of single examples differ: Fisher trace and gradient noise scale."""

import numpy as np
from keras import ops

from keras_smoothout.checks import check_count
from keras_smoothout.evaluation import rows_of
from keras_smoothout.landscape.data import count
from keras_smoothout.landscape.estimate import Estimate, mean
from keras_smoothout.moving_statistics import batch_norms


def fisher_trace(objective, examples=200, seed=0):
    """Trace of the empirical Fisher matrix: how strongly single examples pull at the weights.

        mean over examples of ||gradient of the example's own loss||**2

    Labels are those of the data ("empirical"). Losses that the model adds itself, by regularizers
    of weights or activities or by `add_loss`, do not count. With labels drawn from the model, the
    Fisher matrix would be the Gauss-Newton matrix of cross-entropy from logits; its trace is
    `gauss_newton_trace` in `measures`.

    Args:
        objective: An `Objective`.
        examples: Number of examples, drawn without replacement. Defaults to `200`.
        seed: Integer. Defaults to `0`.

    Returns:
        An `Estimate`.

    Raises:
        ValueError: If BatchNormalization is to normalize by the batch: it would be one example.

    Cost: `examples + 1` gradients of single examples; `2 * examples` if an activity regularizer or
        `add_loss` can add a different loss for each example.

    Reference: Jastrzebski et al., *Catastrophic Fisher Explosion*, ICML 2021, arXiv:2012.14193,
        Section 2.
    """
    own, shared, squares = None, None, []  # `own`: the gradient of what the model adds itself.
    for one in single_examples(objective, examples, seed):
        if shared is None:
            shared = only_regularizes_weights(objective, one[0])
        if own is None or not shared:
            own = gradient(objective, (*one[:2], np.zeros(1, "float32")))
        squares.append(np.sum((gradient(objective, one) - own) ** 2))
    return mean(squares, objective.examples)


def gradient_noise_scale(objective, examples=200, seed=0):
    """The simple noise scale: about the batch size beyond which more examples help little.

        B = mean over examples of ||g_i - g||**2 / ||g||**2         g the gradient of the whole data

    Args:
        objective: An `Objective`.
        examples: Number of examples in the numerator, drawn without replacement. Defaults to `200`.
        seed: Integer. Defaults to `0`.

    Returns:
        An `Estimate`, in examples; infinite where `g` is 0.

    Raises:
        ValueError: If BatchNormalization is to normalize by the batch: it would be one example.

    Cost: 1 gradient of the whole data and `examples` gradients of single examples.
    Differs from the paper: `g` is the gradient of the whole data, not an estimate from two batch
        sizes, so nothing has to be corrected for a bias.

    Reference: McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018,
        arXiv:1812.06162, Eq. (2.9).
    """
    whole = gradient(objective, None)
    chosen = single_examples(objective, examples, seed)
    squares = [np.sum((gradient(objective, one) - whole) ** 2) for one in chosen]
    variance = mean(squares, objective.examples)
    square = np.sum(whole**2)
    if square == 0:
        return Estimate(np.inf, np.inf)
    return Estimate(float(variance.value / square), float(variance.standard_error / square))


def gradient(objective, batch):
    """Flat gradient of one batch, or of the whole data."""
    return objective.flatten(objective.loss_and_gradient(objective.weights, batch=batch)[1])


def only_regularizes_weights(objective, x):
    """Whether weight regularizers, the same for every example, are all that the model adds."""
    model, state = objective.model, [ops.convert_to_tensor(s) for s in objective.state]
    weights = objective.tensors(objective.weights)
    *_, losses = model.stateless_call(weights, state, x, training=False, return_losses=True)
    return len(losses) == sum(v.regularizer is not None for v in model.trainable_variables)


def single_examples(objective, examples, seed):
    """Batches of one example each, drawn without replacement."""
    check_count("examples", examples, least=2)
    if objective.batch_norm == "training" and batch_norms(objective.model):
        raise ValueError(
            "Gradients of single examples need BatchNormalization's moving statistics: make the "
            '`Objective` with `batch_norm="evaluation"`. Received: batch_norm="training"'
        )
    drawn = np.random.default_rng(seed).permutation(objective.examples)[:examples]
    drawn, before = set(drawn.tolist()), 0
    for batch in objective.batches():
        for i in [i for i in range(count(batch)) if before + i in drawn]:
            yield rows_of(batch, slice(i, i + 1))
        before += count(batch)
