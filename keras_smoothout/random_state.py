"""Python's and NumPy's global random numbers, by which some `fit` order their data, as arrays."""

import random

import numpy as np


def get():
    """Dict of arrays: the states of both generators now."""
    _, words, gauss = random.getstate()
    _, keys, place, has_gauss, cached = np.random.get_state()
    return {
        "python": np.array([*words, gauss is not None], "uint32"),
        "numpy": np.array([*keys, place, has_gauss], "uint32"),
        "gauss": np.array([gauss or 0.0, cached]),  # The second of a pair of normal draws.
    }


def set(arrays):
    """Set both generators to what `get` has returned."""
    *words, has_gauss = arrays["python"].tolist()
    *keys, place, numpy_has_gauss = arrays["numpy"].tolist()
    gauss, cached = arrays["gauss"].tolist()
    random.setstate((3, tuple(words), gauss if has_gauss else None))
    np.random.set_state(("MT19937", np.array(keys, "uint32"), place, numpy_has_gauss, cached))
