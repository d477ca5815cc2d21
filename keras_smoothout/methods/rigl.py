"""RigL: a network that is sparse from the start and finds its connections while it trains.

Most entries of each kernel are masked. From time to time the smallest weights that are left are
dropped, and as many are grown where the loss would fall fastest. With random growth this is SET; a
mask that never moves is the baseline of both.
"""

import math

import keras
from keras import ops

from keras_smoothout import backend, keras_internals, noise
from keras_smoothout.around import chain, slots_of, state_of
from keras_smoothout.checks import (
    check_choice,
    check_count,
    check_integer,
    check_names,
    check_number,
    check_share,
)
from keras_smoothout.masks import counts, first_mask, moved
from keras_smoothout.method import Method, included
from keras_smoothout.weights import copies_of

DISTRIBUTIONS, GROWTHS = ("erk", "uniform"), ("gradient", "random")


@keras.saving.register_keras_serializable("keras_smoothout")
class RigL(Method):
    """Train few weights: drop the smallest ones, and grow others where the gradient is largest.

        w = mask * inner_update(w, mask * g)
        each update t that is a multiple of period and less than end, in place of this step:
            k = int(fraction / 2 * (1 + cos(pi * t / end)) * sum(mask))     for each kernel
            kept = mask without its k smallest |w|
            mask = kept, and the k largest |g| outside of it
            weights that were not in the mask, and their state in inner, are 0

    The mask is drawn at random when the optimizer is built, and the weights are masked there. All
    `Copies` begin with one mask, and each moves its own. `g` is the gradient for all entries,
    masked ones too: the mean over replicas, ghost batches and accumulated calls. The weights that
    the model holds are sparse after every step, so evaluation and checkpoints need no mask;
    `keras_smoothout.pruned` returns them as a plain Keras model. A method that goes to other
    weights for its gradient, such as SAM, moves masked ones there, too. Works in any Keras model;
    in a plain `keras.Model`, call `optimizer.build` with its weights before `fit`, or the first
    gradient is that of the dense network.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name.
        sparsity: Share of masked entries in all kernels together, in [0, 1). Defaults to `0.9`.
        distribution: `"uniform"` for the same share in each kernel; `"erk"` (Erdos-Renyi-Kernel)
            for `eps * sum(shape) / prod(shape)` of the entries left in each, at most all of them,
            with the `eps` that leaves as many weights as `"uniform"`. Kernels with all their
            entries have no mask. Defaults to `"erk"`.
        fraction: Share of a kernel's weights that the first update of the mask replaces, in [0, 1].
            `0` keeps the masks: static sparse training. Defaults to `0.3`.
        period: Number of updates between two updates of the masks, at least 2. Defaults to `100`.
        end: Number of updates after which masks stay, about three quarters of the training.
            Defaults to `25000`.
        growth: `"gradient"` for the largest gradients; `"random"` for random entries, as SET does.
            Defaults to `"gradient"`.
        exclude: Names of variables or layers without a mask, compared with the parts of each
            variable's path. `"vector"` stands for all that have one axis or none. Defaults to
            `("vector", "bias", "gamma", "beta", "alpha", "embeddings")`: kernels have masks.
        seed: Integer, of the first masks and of random growth. Defaults to `0`.

    Raises:
        ValueError: If an argument is out of its range, or `inner` keeps weights or is `Ftrl`.

    Reduces to: `inner` when `sparsity=0`.
    Cost: 1 gradient per step, which is dense; the masks are kept, as large as the kernels, and each
        step copies the weights and the state of `inner`, which an update of the masks restores.
        Nothing is saved while it trains: that needs kernels for sparse matrices.
    Differs from the paper: as in its code, a step that updates masks changes no weight besides
        those of 0, and a dropped weight may come straight back, with its state. Ties are broken by
        the order of the entries and not by noise. `iterations` counts updates of masks, too. The
        paper's first layer is dense under `"uniform"`: name it in `exclude`. That, the cosine and
        the defaults are from notes on the paper; densities and updates follow its published code.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> net = [keras.layers.Dense(32, "relu"), keras.layers.Dense(1)]
        >>> model = keras.Sequential([keras.Input((8,)), *net])
        >>> model.compile(ks.RigL("adam", sparsity=0.75, period=10, end=60), "mse")
        >>> x = np.random.default_rng(0).normal(size=(64, 8))
        >>> history = model.fit(x, x[:, :1] * x[:, 1:2], epochs=40, verbose=0)
        >>> sum(int(np.sum(w.numpy() != 0)) for w in model.trainable_variables if w.ndim == 2)
        72

    Reference: Evci et al., *Rigging the Lottery: Making All Tickets Winners*, ICML 2020,
        arXiv:1911.11134, Algorithm 1. SET, `growth="random"`: Mocanu et al., *Scalable training of
        artificial neural networks with adaptive sparse connectivity inspired by network science*,
        2018, arXiv:1707.04780; its text was not checked.
    """

    per_copy = sets_weights = transforms = keeps_zeros = True

    def __init__(
        self,
        inner,
        sparsity=0.9,
        distribution="erk",
        fraction=0.3,
        period=100,
        end=25_000,
        growth="gradient",
        exclude=("vector", "bias", "gamma", "beta", "alpha", "embeddings"),
        seed=0,
        **kwargs,
    ):
        check_share("sparsity", sparsity)
        check_choice("distribution", distribution, DISTRIBUTIONS)
        check_number("fraction", fraction, most=1)
        check_count("period", period, least=2)
        check_count("end", end)
        check_choice("growth", growth, GROWTHS)
        check_names("exclude", exclude)
        check_integer("seed", seed)
        super().__init__(inner, **kwargs)
        if self.use_ema:
            raise ValueError(
                "`inner` must not average weights, which would not be sparse: put `SWA` around "
                f"`RigL`. Received: use_ema=True in {chain(self)[-1].name}"
            )
        if isinstance(chain(self)[-1], keras.optimizers.Ftrl):
            raise ValueError(
                "`inner` must be able to begin with a state of 0, as that of new weights is. "
                f"Received: inner={chain(self)[-1].name}"
            )
        self.sparsity = sparsity
        self.distribution = distribution
        self.fraction = fraction
        self.period = period
        self.end = end
        self.growth = growth
        self.exclude = tuple(exclude)
        self.seed = seed

    def build(self, variables):
        super().build(variables)
        among = included(self.trainable_variables, self.exclude)
        self._copies = copies_of(variables)
        shapes = [v.shape[1:] if self._copies else v.shape for v in self.trainable_variables]
        self._sizes = {i: math.prod(shapes[i]) for i in among}
        left = counts([shapes[i] for i in among], self.sparsity, self.distribution)
        self._ones = {i: n for i, n in zip(among, left, strict=True) if n < self._sizes[i]}
        self.masks = []
        for i, ones in self._ones.items():
            variable = self.trainable_variables[i]
            first = first_mask(variable.shape, ones, (self.seed, i), self._copies)
            self.masks += [self.add_variable_from_reference(variable, "mask", first)]
            variable.assign(ops.where(backend.read(self.masks[-1]) > 0, backend.read(variable), 0))

    def update(self, apply, grads, variables):
        masks = dict(zip(self._ones, [backend.read(m) > 0 for m in self.masks], strict=True))
        moving = bool(masks) and self.fraction > 0
        if moving:
            due, t = self.due, self.iterations + 1
            due = ops.logical_and(due, ops.logical_and(t % self.period == 0, t < self.end))
            dense = self.mean_gradient(grads) if self.growth == "gradient" else None
            state = state_of(self.inner)
            restored = [*variables, *state]
            indices = [*range(len(variables)), *slots_of(state, variables)]
            before = [backend.read(v) for v in restored]
        apply(self._masked(grads, masks))
        for i, mask in masks.items():
            variables[i].assign(ops.where(mask, backend.read(variables[i]), 0))
        if moving:

            def after():
                new = {i: self._moved(i, masks[i], before[i], dense, t) for i in masks}
                both = {i: ops.logical_and(new[i], masks[i]) for i in masks}
                pairs = zip(indices, before, strict=True)
                left = [ops.where(both[i], b, 0) if i in both else b for i, b in pairs]
                return [*left, *(ops.cast(new[i], variables[i].dtype) for i in masks)]

            backend.assign_if(due, [*restored, *self.masks], after)

    def _masked(self, grads, masks):
        """The gradients for `inner`, such that all accumulated calls together are masked."""
        grads, innermost = list(grads), chain(self)[-1]
        for i in [i for i in masks if grads[i] is not None]:
            g = backend.dense(grads[i])
            without = ops.zeros_like(g)
            if self.gradient_accumulation_steps:  # They are dense until the last call.
                so_far = backend.read(keras_internals.accumulated(innermost)[i])
                taken = -so_far * (innermost.loss_scale_factor or 1.0)
                without = ops.where(self.due, taken, g)
            grads[i] = ops.where(masks[i], g, without)
        return grads

    def _moved(self, i, mask, weight, dense, t):
        """The next mask of weight `i`."""
        share = self.fraction / 2 * (1 + ops.cos(math.pi / self.end * ops.cast(t, "float32")))
        drawn = self.growth == "random"
        score = noise.draw(mask.shape, noise.key(self.seed, t, i)) + 1 if drawn else abs(dense[i])
        return moved(mask, self._ones[i], share, weight, score, self._copies)

    def densities(self):
        """Return the share of entries that are not masked: a dict by path of the kernels."""
        left = {i: self._ones.get(i, size) / size for i, size in self._sizes.items()}
        return {self.trainable_variables[i].path: share for i, share in left.items()}
