"""A few steps of each method in NumPy and float64, as the papers write them.

The problem: least squares with two weight matrices, `norm(X @ W) @ V`. "plain" has no norm, "L2"
adds a penalty of W as a layer's regularizer does, and in "BN" the norm is BatchNormalization.
"""

import numpy as np

PROBLEMS = ("plain", "L2", "BN")
STEPS, RATE, MOMENTUM, RHO, DECAY = 3, 0.1, 0.9, 0.05, 0.01
SYNC_PERIOD, SLOW_STEP_SIZE, AVERAGE_DECAY = 2, 0.5, 0.9
BETAS, EPSILON, TRUST = (0.9, 0.999), 1e-6, 0.1
PENALTY, NORM_EPSILON, NORM_MOMENTUM = 0.1, 1e-5, 0.9
RNG = np.random.default_rng(0)
X, Y, W, V = (RNG.normal(size=s).astype("float32") for s in ((16, 4), (16, 2), (4, 3), (3, 2)))
# What a method may do instead. Each is tried where a peer is not at the closed form.
VARIANTS = {
    "SAM": (
        "without the penalty",
        "statistics of the second pass",
        "first pass in inference mode, statistics of the second",
        "statistics of both passes",
    ),
    "LAMB": ("decay outside of the ratio", "bias corrected after the ratio"),
    "LARS": ("norm of the decayed gradient",),
    "EMA": ("begins at the weights before the first step", "begins at the weights after it"),
    "SWA": ("begins at the weights before the first step",),
}


def forward(problem, weights, moving=None):
    """The loss, and the mean and variance of a batch; `moving` ones make it inference mode."""
    w, v = weights
    hidden, batch = X @ w, None
    if problem == "BN":
        batch = hidden.mean(0), ((hidden - hidden.mean(0)) ** 2).mean(0)
        mean, variance = batch if moving is None else moving
        hidden = (hidden - mean) / np.sqrt(variance + NORM_EPSILON)
    penalty = PENALTY * (w**2).sum() if problem == "L2" else 0.0
    return ((hidden @ v - Y) ** 2).mean() + penalty, batch


def gradient(problem, weights, moving=None):
    """Derivatives by a complex step, which is exact to rounding."""
    grads = [np.zeros(w.shape) for w in weights]
    for i, w in enumerate(weights):
        for place in np.ndindex(w.shape):
            moved = [a.astype(complex) for a in weights]
            moved[i][place] += 1e-30j
            grads[i][place] = forward(problem, moved, moving)[0].imag / 1e-30
    return grads


def length(arrays):
    return np.sqrt(sum((a**2).sum() for a in arrays))


def closed_form(method, problem, variant=""):
    """Weights after `STEPS` steps, or their average, and BatchNormalization's moving mean."""
    if variant == "without the penalty":
        problem = {"L2": "plain"}.get(problem, problem)
    weights = [np.float64(W), np.float64(V)]
    slow, path = weights, [weights]
    m, v = ([np.zeros(w.shape) for w in weights] for _ in range(2))
    moving = np.zeros(3), np.ones(3)

    def observe(at):
        nonlocal moving
        if problem == "BN":
            both = zip(moving, forward(problem, at)[1], strict=True)
            moving = tuple(NORM_MOMENTUM * old + (1 - NORM_MOMENTUM) * new for old, new in both)

    for t in range(1, STEPS + 1):
        inference = moving if "inference" in variant else None
        grads = gradient(problem, weights, inference)
        if "of the second" not in variant:
            observe(weights)
        if method == "SAM":
            uphill = [w + RHO * g / length(grads) for w, g in zip(weights, grads, strict=True)]
            grads = gradient(problem, uphill)
            if "of the second" in variant or "both" in variant:
                observe(uphill)
        for i, (w, g) in enumerate(zip(weights, grads, strict=True)):
            if method == "LAMB":
                after = "after" in variant  # The ratio is the same for `r` of any length.
                corrections = (1, 1) if after else [1 - b**t for b in BETAS]
                m[i] = BETAS[0] * m[i] + (1 - BETAS[0]) * g
                v[i] = BETAS[1] * v[i] + (1 - BETAS[1]) * g**2
                r = m[i] / corrections[0] / (np.sqrt(v[i] / corrections[1]) + EPSILON)
                if "outside" in variant:  # Decoupled, in front of the step, as Keras has it.
                    w = w - RATE * DECAY * w
                else:
                    r = r + DECAY * w
                step = RATE * length([w]) / length([r]) * r / (1 - BETAS[0] ** t if after else 1)
            else:
                rate, decayed = RATE, g
                if method == "LARS":
                    decayed = g + DECAY * w
                    size = length([g]) + DECAY * length([w])
                    size = length([decayed]) if "decayed" in variant else size
                    rate *= TRUST * length([w]) / size
                step = m[i] = MOMENTUM * m[i] + rate * decayed
            weights = [*weights[:i], w - step, *weights[i + 1 :]]
        if method == "Lookahead" and t % SYNC_PERIOD == 0:
            both = zip(slow, weights, strict=True)
            weights = slow = [s + SLOW_STEP_SIZE * (w - s) for s, w in both]
        path.append(weights)
    if method in ("SWA", "EMA"):
        weights = average(path, 1.0 if method == "SWA" else AVERAGE_DECAY, variant)
    return weights, moving[0]


def average(path, decay, variant):
    """The mean of a path with weights `decay**age`, or a running one that begins somewhere."""
    start = 0 if "before" in variant else 1
    if decay < 1 and variant:
        result = path[start]
        for weights in path[start + 1 :]:
            both = zip(result, weights, strict=True)
            result = [decay * a + (1 - decay) * w for a, w in both]
        return result
    masses = [decay**age for age in reversed(range(len(path) - start))]
    columns = zip(*path[start:], strict=True)
    return [np.average(column, axis=0, weights=masses) for column in columns]


def distance(weights, exact):
    """The largest difference from `exact`, in units of the largest change since the start."""
    moved = max(np.abs(e - s).max() for e, s in zip(exact, (W, V), strict=True))
    return max(np.abs(w - e).max() for w, e in zip(weights, exact, strict=True)) / moved
