"""The table of methods: a new method is a file, its import and its row here.

`train.py`, the tests, the benchmarks and the README follow this table.
"""

from typing import NamedTuple

from keras_smoothout.methods.ada_smoothout import AdaSmoothOut
from keras_smoothout.methods.asam import ASAM
from keras_smoothout.methods.awp import AWP
from keras_smoothout.methods.dpsgd import DPSGD
from keras_smoothout.methods.entropy_sgd import EntropySGD
from keras_smoothout.methods.fixed_effective_rate import FixedEffectiveRate
from keras_smoothout.methods.friendly_sam import FriendlySAM
from keras_smoothout.methods.gnp import GNP
from keras_smoothout.methods.gsam import GSAM
from keras_smoothout.methods.ivon import IVON
from keras_smoothout.methods.kfac import KFAC
from keras_smoothout.methods.lamb import LAMB
from keras_smoothout.methods.lars import LARS
from keras_smoothout.methods.look_sam import LookSAM
from keras_smoothout.methods.lookahead import Lookahead
from keras_smoothout.methods.msam import MSAM
from keras_smoothout.methods.nudged_sgd import NudgedSGD
from keras_smoothout.methods.partially_adaptive import PartiallyAdaptive
from keras_smoothout.methods.replicated_sgd import ReplicatedSGD
from keras_smoothout.methods.rigl import RigL
from keras_smoothout.methods.sam import SAM
from keras_smoothout.methods.schedule_free import ScheduleFree
from keras_smoothout.methods.smoothout import SmoothOut
from keras_smoothout.methods.swa import SWA

WAYS = (
    "one gradient elsewhere",
    "two gradients",
    "extras for update",
    "state in update",
    "own update",
)


class Row(NamedTuple):
    """A method, an optimizer around another.

    Attributes:
        cls: The class.
        neutral: Arguments that make it its inner optimizer alone, to the bit.
        way: How it uses the seam: one of `WAYS`.
        callback: Name of the callback that it needs, which `train.py` does not have. Defaults to
            `None`.
        copies: Whether it needs several copies of the weights, `Copies`. Defaults to `False`.
        example: Arguments with which the tests have it change all weights. Defaults to `{}`.
    """

    cls: type
    neutral: dict
    way: str
    callback: str | None = None
    copies: bool = False
    example: dict = {}


METHODS = {
    "smoothout": Row(SmoothOut, {"radius": 0.0}, "one gradient elsewhere"),
    "adasmoothout": Row(AdaSmoothOut, {"radius": 0.0}, "one gradient elsewhere"),
    "sam": Row(SAM, {"rho": 0.0}, "two gradients"),
    "asam": Row(ASAM, {"rho": 0.0}, "two gradients"),
    "msam": Row(MSAM, {"rho": 0.0}, "state in update"),
    "gnp": Row(GNP, {"alpha": 0.0}, "two gradients"),
    "gsam": Row(GSAM, {"rho": 0.0, "alpha": 0.0}, "two gradients"),
    "friendlysam": Row(FriendlySAM, {"rho": 0.0}, "extras for update"),
    "looksam": Row(LookSAM, {"rho": 0.0, "interval": 1}, "extras for update"),
    "awp": Row(AWP, {"gamma": 0.0}, "two gradients"),
    "kfac": Row(
        KFAC,
        {"exclude": ("kernel", "bias")},
        "extras for update",
        example={"damping": 0.1, "curvature_period": 2, "inverse_period": 3},
    ),
    "lookahead": Row(Lookahead, {"slow_step_size": 1.0}, "state in update"),
    "swa": Row(SWA, {"ema_decay": 0.0}, "state in update"),
    "schedulefree": Row(ScheduleFree, {"memory": 0.0}, "own update"),
    "entropysgd": Row(EntropySGD, {"langevin_steps": 0}, "own update"),
    "replicatedsgd": Row(ReplicatedSGD, {"coupling": 0.0}, "own update", copies=True),
    "dpsgd": Row(DPSGD, {}, "own update", copies=True),
    "nudgedsgd": Row(NudgedSGD, {"factor": 1.0}, "own update", "TrackSharpestDirections"),
    "fixedeffectiverate": Row(
        FixedEffectiveRate, {"weights": (), "others": 1.0}, "own update", example={"others": 1.0}
    ),
    "rigl": Row(
        RigL, {"sparsity": 0.0}, "own update", example={"sparsity": 0.5, "period": 2, "end": 9}
    ),
}

# Optimizers that go inside a method or stand alone.
BASES = {"lars": LARS, "lamb": LAMB, "padam": PartiallyAdaptive, "ivon": IVON}

__all__ = [cls.__name__ for cls in (*(row.cls for row in METHODS.values()), *BASES.values())]
