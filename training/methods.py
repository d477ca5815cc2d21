"""Optimizers by name: what `--method=lookahead+smoothout+adam` builds, with which options.

The names are those of the package's tables of methods and of a few Keras optimizers. Each argument
of a constructor is an option.
"""

import inspect
import re
from typing import NamedTuple

import keras

from keras_smoothout import methods, scale_invariant
from keras_smoothout.per_copy import check_per_copy
from keras_smoothout.schedules import Strided

CLIPS = ("clipnorm", "global_clipnorm", "clipvalue")
KERAS = {  # name: class, and the arguments that are options.
    "sgd": (keras.optimizers.SGD, ("learning_rate", "momentum", "nesterov", *CLIPS)),
    "adam": (keras.optimizers.Adam, ("learning_rate", *CLIPS)),
    "adamw": (keras.optimizers.AdamW, ("learning_rate", "weight_decay", *CLIPS)),
}
AUTO = "auto"  # Value of an option that `training.auto` finds.
NOT_OPTIONS = ("self", "inner", "name", "kwargs")


def arguments(cls):
    """Dict from each argument of a class of the package to its default."""
    ours = [c for c in cls.__mro__ if c.__module__.startswith("keras_smoothout.methods.")]
    found = {}
    for c in reversed(ours):
        for name, parameter in inspect.signature(c.__init__).parameters.items():
            if name not in NOT_OPTIONS:
                found[name] = parameter.default
    return found


def described(cls, argument):
    """The first sentence of a class's docstring about an argument, or `None`."""
    for c in cls.__mro__:
        lines = re.split(r"\n    (?=\S)", inspect.cleandoc(c.__doc__ or "").partition("Args:\n")[2])
        for line in lines:
            name, _, text = " ".join(line.split()).partition(": ")
            if name == argument:
                return f"{re.split(r'[.:;](?: |$)', text)[0]}."
    return None


ROWS = {name: row.cls for name, row in methods.METHODS.items() if row.callback is None}
METHODS = {name: (cls, tuple(arguments(cls))) for name, cls in ROWS.items()}
BASES = KERAS | {name: (cls, (*arguments(cls), *CLIPS)) for name, cls in methods.BASES.items()}
PATTERN = f"(({'|'.join(METHODS)})\\+)*({'|'.join([*METHODS, *BASES])})"
KNOWN = f"{', '.join([*METHODS, *BASES])}, or nested ones: lookahead+smoothout+adam"
OPTIONS = {name for _, names in (METHODS | BASES).values() for name in names}


def generated():
    """Rows (option, default, help) of the arguments that the package's classes take.

    The default says which type an option has. Without the option, each class takes its own default.
    """
    takers = {}
    for method, cls in (ROWS | methods.BASES).items():
        for argument, default in arguments(cls).items():
            takers.setdefault(argument, {})[method] = cls, default
    for argument, rows in takers.items():
        defaults = {}
        for method, (_, default) in rows.items():
            shown = ",".join(default) if isinstance(default, tuple) else str(default)
            defaults.setdefault(shown, []).append(method)
        told = "; ".join(f"{value} for {', '.join(of)}" for value, of in defaults.items())
        told = FROM_COURSE[argument].said if argument in FROM_COURSE else told
        texts = (described(cls, argument) for cls, _ in rows.values())
        text = next((text for text in texts if text), "")
        yield argument, next(iter(rows.values()))[1], f"{text} Defaults: {told}."


def nested(method):
    """The rows of a method's optimizers, outermost first; the last one is a base."""
    names = method.split("+")
    return [(METHODS | BASES)[name] for name in names + ["sgd"] * (names[-1] not in BASES)]


def used(method):
    """The options that a method takes."""
    return {"seed"}.union(*(names for _, names in nested(method)))


def copies(options, method):
    """The number of copies of the weights: the option's, or 3 for a method that needs some."""
    needed = any(row.copies for name, row in methods.METHODS.items() if name in method.split("+"))
    return options.model_copies or (3 if needed else 1)


def stride(options, method):
    """The number of steps for one update of the base."""
    taken = (arguments(cls).get("langevin_steps") for cls, _ in nested(method))
    default, given = next(filter(None, taken), None), getattr(options, "langevin_steps", None)
    return max(1, default if given is None else given) if default else 1


def late(options, method, course):
    """The number of updates in three quarters of the training."""
    return max(1, course.step_at(course.epochs * 3 // 4) // stride(options, method))


def examples(options, method, course):
    """The number of training examples."""
    return course.examples


class FromCourse(NamedTuple):
    """The default of an option that follows from the training: who takes it, what it is."""

    cls: type
    value: object  # Function of options, method and course.
    said: str


FROM_COURSE = {
    "start": FromCourse(methods.SWA, late, "three quarters of the training"),
    "end": FromCourse(methods.RigL, late, "three quarters of the training"),
    "ess": FromCourse(methods.IVON, examples, "the number of training examples"),
}


def settle(options, names, course):
    """Set the options that follow from the training, whose epochs a resumed run can raise."""
    for option, row in FROM_COURSE.items():
        takers = [name for name in names if row.cls in [cls for cls, _ in nested(name)]]
        found = {row.value(options, name, course) for name in takers}
        if getattr(options, option) is None and found:
            if len(found) > 1:
                raise ValueError(
                    f"--{option} must be given: by default it is another one for each of {takers}. "
                    f"Received: {sorted(found)}"
                )
            setattr(options, option, found.pop())


def optimizer(options, method, seed, course, model=None):
    """Return the optimizers of a nested method, one around the other.

    With a `model`, the weights of `FixedEffectiveRate` are found in it, unless they are given.
    """
    values = {name: getattr(options, name, None) for name in OPTIONS}
    values |= {"learning_rate": course.learning_rate(options), "radius": course.radius(options)}
    values = {name: None if value == AUTO else value for name, value in values.items()}
    if stride(options, method) > 1 and callable(values["learning_rate"]):
        values["learning_rate"] = Strided(values["learning_rate"], stride(options, method))
    if model is not None and "weights" in used(method) and values["weights"] is None:
        values["weights"] = scale_invariant(model)
        if not values["weights"]:
            raise ValueError(
                f"{method} needs weights that only BatchNormalization follows: choose another "
                "--model, or name --weights. Received: a model without any"
            )
    inner = ()
    for depth, (cls, names) in enumerate(reversed(nested(method))):
        values["seed"] = seed + depth  # Nested noise is independent.
        given = {n: values[n] for n in names if values[n] is not None}
        for option in [option for option, row in FROM_COURSE.items() if cls is row.cls]:
            given.setdefault(option, FROM_COURSE[option].value(options, method, course))
        inner = (cls(*inner, **given),)
    if copies(options, method) > 1:
        check_per_copy(inner[0])
    return inner[0]
