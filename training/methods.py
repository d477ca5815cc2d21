"""Optimizers by name: what `--method=lookahead+smoothout+adam` builds, with which options."""

import keras

import keras_smoothout as ks

CLIPS = ("clipnorm", "global_clipnorm", "clipvalue")
NOISE = ("radius", "distribution", "copies", "antithetic", "perturbation", "denoise", "seed")
METHODS = {  # name: class, and the options that it takes. A new method is a new row.
    "smoothout": (ks.SmoothOut, (*NOISE, "scale")),
    "adasmoothout": (ks.AdaSmoothOut, NOISE),
    "sam": (ks.SAM, ("rho", "interval", "perturbation")),
    "asam": (ks.ASAM, ("rho", "eta", "interval", "perturbation")),
    "lookahead": (ks.Lookahead, ("sync_period", "slow_step_size")),
}
BASES = {
    "sgd": (keras.optimizers.SGD, ("learning_rate", "momentum", "nesterov", *CLIPS)),
    "adam": (keras.optimizers.Adam, ("learning_rate", *CLIPS)),
    "padam": (ks.PartiallyAdaptive, ("learning_rate", "partial", *CLIPS)),
    "lars": (
        ks.LARS,
        ("learning_rate", "momentum", "nesterov", "trust_coefficient", "decay", *CLIPS),
    ),
    "lamb": (ks.LAMB, ("learning_rate", "decay", *CLIPS)),
    "adamw": (keras.optimizers.AdamW, ("learning_rate", "weight_decay", *CLIPS)),
}
PATTERN = f"(({'|'.join(METHODS)})\\+)*({'|'.join([*METHODS, *BASES])})"
KNOWN = f"{', '.join([*METHODS, *BASES])}, or nested ones: lookahead+smoothout+adam"
OPTIONS = {name for _, names in (METHODS | BASES).values() for name in names}


def nested(method):
    """The rows of a method's optimizers, outermost first; the last one is a base."""
    names = method.split("+")
    return [(METHODS | BASES)[name] for name in names + ["sgd"] * (names[-1] not in BASES)]


def used(method):
    """The options that a method takes."""
    return {"seed"}.union(*(names for _, names in nested(method)))


def optimizer(options, method, seed, steps):
    """The optimizers of a nested method, one around the other; an epoch has so many steps."""
    values = {name: getattr(options, name) for name in OPTIONS}
    values |= {"learning_rate": learning_rate(options, steps), "radius": radius(options, steps)}
    inner = ()
    for depth, (cls, names) in enumerate(reversed(nested(method))):
        values["seed"] = seed + depth  # Nested noise is independent.
        inner = (cls(*inner, **{n: values[n] for n in names if values[n] is not None}),)
    return inner[0]


def learning_rate(options, steps):
    """The learning rate over the run."""
    schedules, rate = keras.optimizers.schedules, options.learning_rate
    total = options.epochs * steps
    if options.lr_schedule == "cosine":
        warmup = options.warmup_epochs * steps
        rising = {"warmup_target": rate, "warmup_steps": warmup} if warmup else {}
        return schedules.CosineDecay(0.0 if warmup else rate, total - warmup, **rising)
    if options.lr_schedule == "polynomial":
        return schedules.PolynomialDecay(rate, total, 0.0, options.lr_power)
    if options.lr_schedule == "piecewise":
        last = [int(epoch) * steps - 1 for epoch in options.lr_milestones]  # steps of the old rate
        rates = [rate * options.lr_decay**i for i in range(len(last) + 1)]
        return schedules.PiecewiseConstantDecay(last, rates)
    return rate


def radius(options, steps):
    """The radius of the noise over the run."""
    if options.radius_schedule == "annealed":
        return ks.schedules.AnnealedRadius(options.radius)
    if options.radius_schedule == "tanh":
        return ks.schedules.TanhRadius(options.radius, options.epochs * steps)
    return options.radius
