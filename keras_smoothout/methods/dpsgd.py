"""DPSGD: learners that each know a part of the batch and talk to a few neighbours.

Decentralized parallel SGD averages weights over the edges of a graph in place of gradients over all
learners. The learners differ a little, so their gradients are those of a neighbourhood.
"""

import math

import keras
from keras import ops

from keras_smoothout import backend, noise
from keras_smoothout.checks import check_choice, check_integer
from keras_smoothout.method import Method, check_copies

GRAPHS = ("ring", "pairs", "exponential", "complete")


@keras.saving.register_keras_serializable("keras_smoothout")
class DPSGD(Method):
    """Average the weights of neighbours, then take the step that each learner has on its own.

        g_i = gradient of learner i at w_i
        w_i = sum_k M[i, k] * w_k
        w_i = inner_update(w_i, g_i)

    The learners are the copies of `keras_smoothout.Copies`. Gradients are taken before weights are
    mixed, and each learner has its own momentum, which is not mixed. Under gradient accumulation
    weights are mixed in updates only.

    Args:
        inner: Optimizer of each learner: an instance, a config or a name.
        graph: `"ring"` averages each learner with its two neighbours; `"pairs"` averages random
            pairs, drawn for each update; `"exponential"` averages learner i with learner
            `i + 2**(t mod log2(learners))`, which is an exact mean after `log2(learners)` updates
            if that is whole; `"complete"` averages all. Defaults to `"ring"`.
        seed: Integer, for the pairs. Defaults to `0`.

    Raises:
        ValueError: If an argument is not as above; when it is built, if the variables are not those
            of a `Copies`.

    Reduces to: `inner` when there is one copy. With `graph="complete"` and SGD, the mean of
        learners that were equal takes the step of SGD on the whole batch, to rounding; later
        gradients are taken around the mean, each learner's last step away.
    Cost: 1 gradient per example, and the copies of the weights. On devices of their own, learners
        send their weights twice per update in a ring and once in the exponential graph; pairs take
        an all-gather.
    Differs from the paper: `inner` can be any optimizer; the paper's is SGD. The rule is from
        memory of the papers; two learners in a ring average once, not twice.

    Example:
        >>> import keras, keras_smoothout as ks
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> copies = ks.Copies(model, copies=4, initial="different")
        >>> copies.compile(ks.DPSGD(keras.optimizers.SGD(0.1), graph="exponential"), "mse")
        >>> copies.optimizer.build(copies.trainable_variables)
        >>> for _ in range(2):  # log2(4)
        ...     copies.optimizer.apply([0 * v.value for v in copies.trainable_variables])
        >>> bool(copies.distances().max() < 1e-6)
        True

    Reference: Lian et al., *Can Decentralized Algorithms Outperform Centralized Algorithms?*, NIPS
        2017, arXiv:1705.09056, Algorithm 1; Zhang et al., 2021, arXiv:2112.01433 (large batches);
        Ying et al., *Exponential Graph is Provably Efficient for Decentralized Deep Training*,
        NeurIPS 2021, arXiv:2110.13363.
    """

    per_copy = sets_weights = True

    def __init__(self, inner, graph="ring", seed=0, **kwargs):
        check_choice("graph", graph, GRAPHS)
        check_integer("seed", seed)
        super().__init__(inner, **kwargs)
        self.graph = graph
        self.seed = seed

    def build(self, variables):
        check_copies(self, variables)
        super().build(variables)

    def update(self, apply, grads, variables):
        backend.assign_if(
            self.due, variables, lambda: self.mixed([backend.read(v) for v in variables])
        )
        apply(grads)

    def mixed(self, weights):
        """The `weights` after one round along the edges of the graph."""
        learners = weights[0].shape[0]
        if learners == 1:
            return weights
        if self.graph == "complete":
            return [ops.broadcast_to(ops.mean(w, 0, keepdims=True), w.shape) for w in weights]
        if self.graph == "ring":
            return shifted(weights, sorted({1, learners - 1}))
        if self.graph == "pairs":
            partner = self.partners(learners)
            return [w + (ops.take(w, partner, 0) - w) / 2 for w in weights]
        rounds = math.ceil(math.log2(learners))
        hops = [lambda ws, hop=2**k: shifted(ws, [-hop]) for k in range(rounds)]
        return ops.switch(ops.cast(self.iterations % rounds, "int32"), hops, weights)

    def partners(self, learners):
        """The learner that each one is averaged with; itself for the odd one out."""
        drawn = noise.draw((learners,), noise.key(self.seed, self.iterations))
        order = ops.argsort(drawn)
        place = ops.argsort(order)
        other = place + 1 - 2 * (place % 2)
        return ops.take(order, ops.where(other < learners, other, place), 0)


def shifted(weights, hops):
    """The mean of each learner and of those that are `hops` away, around the circle."""
    share = 1 / (len(hops) + 1)
    return [w + sum((ops.roll(w, hop, 0) - w) * share for hop in hops) for w in weights]
