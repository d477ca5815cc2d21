"""Learners of a game, as methods: weights that descend, and others that climb, by their names."""

from keras import ops

import keras_smoothout as ks

SIGNS = {"x": 1, "y": -1, "made": 1, "inner": -1, "outer": -1}  # -1 climbs.


class GDA(ks.Method):
    """Descent and ascent at once."""

    def update(self, apply, grads, variables):
        apply([SIGNS[v.name] * g for v, g in zip(variables, grads, strict=True)])

    def moved(self, weights, grads, who=(1, -1)):
        signs = [SIGNS[v.name] for v in self.trainable_variables]
        rates = [s * (s in who) * ops.cast(self.learning_rate, weights[0].dtype) for s in signs]
        return [w - r * g for w, r, g in zip(weights, rates, grads, strict=True)]


class ProximalPoint(GDA):
    """A step by the gradient of where it ends."""

    def gradients(self, evaluate, weights, step):
        place = weights
        for _ in range(20):
            place = self.moved(weights, evaluate(place).grads)
        return evaluate(place)


class GDmax(GDA):
    """Descent, after the others have climbed."""

    CLIMBS = 10

    def gradients(self, evaluate, weights, step):
        place, rate = weights, ops.cast(self.learning_rate, weights[0].dtype)
        for _ in range(self.CLIMBS):
            place = self.moved(place, evaluate(place).grads, who=[-1])
        found = evaluate(place)
        to_place = [(p - w) / rate for p, w in zip(place, weights, strict=True)]
        own = zip(self.trainable_variables, found.grads, to_place, strict=True)
        return found._replace(grads=[g if SIGNS[v.name] > 0 else way for v, g, way in own])
