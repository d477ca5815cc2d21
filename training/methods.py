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


def optimizer(options, method, seed, course):
    """The optimizers of a nested method, one around the other."""
    values = {name: getattr(options, name) for name in OPTIONS}
    values |= {"learning_rate": course.learning_rate(options), "radius": course.radius(options)}
    inner = ()
    for depth, (cls, names) in enumerate(reversed(nested(method))):
        values["seed"] = seed + depth  # Nested noise is independent.
        inner = (cls(*inner, **{n: values[n] for n in names if values[n] is not None}),)
    return inner[0]
