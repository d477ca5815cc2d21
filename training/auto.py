"""`--radius=auto` and `--rho=auto`: a range test before the run, on a model of its own.

That model is trained for a few epochs by the base optimizer alone, with small batches, whose
learning rate follows from that of the run by the square-root rule. It is thrown away.
"""

import types

import keras

import keras_smoothout as ks
from keras_smoothout.around import chain
from training import batches, courses, methods, runs, signals

EPOCHS, BATCH, EXAMPLES = 3, 64, 1024
COMMON = {  # What the brief training has in place of the run's own flags.
    "epochs": EPOCHS,
    "warmup_epochs": 0,
    "small_batch_epochs": 0,
    "base_batch_size": None,
    "ghost_batch_size": 0,
    "ghost_layers": False,
    "model_copies": None,
    "lr_schedule": "constant",
    "lr_milestones": [],
    "steps_per_execution": 1,
    "drop_remainder": True,
    "radius_schedule": "constant",
}


def wanted(options):
    """The options that are to be found."""
    return [name for name in ("radius", "rho") if getattr(options, name) == methods.AUTO]


def check(options, names, course, devices):
    """Raise unless each option that is to be found means one thing to all methods that take it."""
    if wanted(options) and (devices.processes > 1 or devices.even):
        name = wanted(options)[0]
        raise ValueError(
            f"--{name}=auto is found on one machine: run it there with --epochs=1, and pass the "
            f"number that it prints. Received: --{name}=auto with --strategy={options.strategy}"
        )
    for name in wanted(options):
        search(options, names, course, name)


def search(options, names, course, name):
    """The function that finds an option, with what it takes from the methods."""
    found = []
    for method in names:
        for optimizer in chain(methods.optimizer(options, method, 0, course)):
            if name == "radius" and isinstance(optimizer, ks.SmoothOut):
                kinds = ("scale", "distribution", "exclude")
                found.append((ks.find_radius, {k: getattr(optimizer, k) for k in kinds}))
            elif name == "rho" and isinstance(optimizer, ks.SAM):
                found.append((ks.find_rho, {"adaptive": isinstance(optimizer, ks.ASAM)}))
            elif name in methods.arguments(type(optimizer)):
                raise ValueError(
                    f"--{name}=auto is not known for every method: give the number. Received: "
                    f"--{name}=auto for {method}"
                )
    if any(other != found[0] for other in found):
        raise ValueError(
            f"--{name}=auto has another value for each of these methods: run them one by one. "
            f"Received: --{name}=auto for {', '.join(names)}"
        )
    return found[0]


def find(options, names, source, course):
    """Dict from each option that is to be found to its `RadiusSearch`.

    Raises:
        ValueError: If the model learned nothing.
    """
    searches = {name: search(options, names, course, name) for name in wanted(options)}
    if not searches:
        return {}
    batch_size = min(BATCH, options.batch_size, source.train.examples)
    rate = course.recipe.learning_rate
    rate *= ks.scaling.sqrt_scaling(batch_size, max(batch_size, options.batch_size))
    brief = {"batch_size": batch_size, "learning_rate": rate, "radius": None, "rho": None}
    brief = types.SimpleNamespace(**options.flag_values_dict() | COMMON | brief)
    base = names[-1].split("+")[-1]
    base = base if base in methods.BASES else "sgd"
    keras.utils.set_random_seed(options.seed)
    plan = courses.plan(brief, source.train.examples)
    model = runs.build(brief, base, options.seed, source, plan)
    order = {"augment": options.augment, "seed": options.seed}
    data = batches.training(source, batch_size, range(EPOCHS), **order, drop_remainder=True)
    model.fit(
        data,
        epochs=EPOCHS,
        steps_per_epoch=plan.stages[0].steps,
        shuffle=False,
        verbose=0,
        callbacks=[ks.callbacks.Interruption(noted=signals.received)],
    )
    examples = batches.training(source, min(EXAMPLES, source.train.examples), range(1), **order)
    x, y = (part.numpy() for part in next(iter(examples)))
    found = {}
    for name, (function, kinds) in searches.items():
        size = min(options.ghost_batch_size or 128, len(x) // 2)
        try:
            found[name] = function(model, x, y, **kinds, batch_size=size)
        except ValueError as error:
            raise ValueError(
                f"--{name}=auto found nothing after {EPOCHS} epochs of {base} with batch size "
                f"{batch_size} and learning rate {rate:.3g}: {error}. Try another "
                f"--learning_rate, or give the number."
            ) from error
    return found


def said(name, found):
    """What the search found, in a sentence."""
    return (
        f"{name} {found.radius:.3g}: there, the loss of a model trained for {EPOCHS} epochs goes a "
        f"tenth of the way from {found.clean:.3g} to that of chance, {found.chance:.3g}"
    )
