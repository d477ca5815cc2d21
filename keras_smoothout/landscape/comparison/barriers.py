"""What lies between two models, before and after their symmetries are removed."""

from keras_smoothout.checks import check_choice, check_count, check_switch
from keras_smoothout.landscape.comparison.geodesic import geodesic
from keras_smoothout.landscape.comparison.matching import match, permute
from keras_smoothout.landscape.comparison.normal_form import normal_form
from keras_smoothout.landscape.comparison.path import Path, profile, summary
from keras_smoothout.landscape.directions import distance, place_of, trainable, whole
from keras_smoothout.landscape.objective import Objective


def ways(a, b, *, restarts=10, seed=0, normal=True):
    """The ways from a model to another, with and without permuting and scaling the units.

    Args:
        a: A model, as for `hidden_units`; as for `normal_form` too, unless `normal=False`.
        b: A model of the same layers, or a list of arrays as of `get_weights`.
        restarts: As for `match`. Defaults to `10`.
        seed: As for `match`. Defaults to `0`.
        normal: Whether to go between normal forms as well. Defaults to `True`.

    Returns:
        Dict of ways: `"straight"`, and `"aligned"`, straight to the permuted `b`, are `Path`s.
        Between normal forms, `"geodesic"` and, to the permuted `b`, `"aligned_normal"`, which is
        straight, and `"aligned_geodesic"`. Normal forms are matched by their own weights, from
        their own order and from that of the match of the weights as they are; the nearer one is
        taken.

    Raises:
        ValueError: As for `match` and `normal_form`.
    """
    check_switch("normal", normal)
    options = {"restarts": restarts, "seed": seed}

    def straight(first, second):
        return Path([trainable(a, w) for w in (first, second)])

    ends = [whole(a, model) for model in (a, b)]
    matched = match(a, ends[1], weights=ends, **options)
    paths = {"straight": straight(*ends), "aligned": straight(ends[0], matched.weights)}
    if normal:
        first, second = (normal_form(a, end).weights for end in ends)
        paths["geodesic"] = geodesic(a, first, second)
        starts = [second, permute(a, matched.permutations, second)]
        found = [match(a, w, weights=(first, w), **options) for w in starts]
        nearest = max(found, key=lambda matching: matching.similarity).weights
        paths["aligned_normal"] = straight(first, nearest)
        paths["aligned_geodesic"] = geodesic(a, first, nearest)
    return paths


def barriers(
    a, b, x, y, *, points=25, quantity="error", restarts=10, seed=0, normal=True, batch_size=500
):
    """Barriers between two models, before and after their hidden units are aligned.

    BatchNormalization's moving statistics are re-estimated at each point.

    Args:
        a: A compiled model, as for `ways`.
        b: Another one of the same layers, with the same frozen weights.
        x: Array of inputs.
        y: Array of targets.
        points: Number of places on each way. Defaults to `25`.
        quantity: `"error"` or `"loss"`. Normal forms have outputs of another scale, which the error
            does not see. Defaults to `"error"`.
        restarts: As for `match`. Defaults to `10`.
        seed: As for `match`. Defaults to `0`.
        normal: As for `ways`. Defaults to `True`.
        batch_size: Number of examples in a batch. Defaults to `500`.

    Returns:
        Dict from the names of the `ways` to dicts: `barrier`, the largest height above the line
        between the ends; `distance` of the ends; `length` of the way.

    Raises:
        ValueError: As for `ways`; if the models differ in frozen weights; if an argument is out of
            its range.

    Cost: a pass over the examples for each point of each way, two with BatchNormalization.

    Reference: Pittorino et al., ICML 2022, arXiv:2202.03038; BatchNormalization as in Jordan et
        al., *REPAIR: REnormalizing Permuted Activations for Interpolation Repair*, ICLR 2023,
        arXiv:2211.08403.
    """
    check_count("points", points, least=2)
    check_choice("quantity", quantity, ("error", "loss"))
    objective = Objective(a, x, y, batch_size=batch_size)
    place_of(objective, b)
    found = {}
    for name, path in ways(a, b, restarts=restarts, seed=seed, normal=normal).items():
        numbers = summary(profile(objective, path, points), quantity)
        apart = distance(*(path.points[end] for end in (0, -1)))
        found[name] = {
            "barrier": numbers["barrier"],
            "distance": apart,
            "length": numbers["length"],
        }
    return found
