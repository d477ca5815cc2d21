"""AdaSmoothOut: SmoothOut with noise in proportion to each filter.

Filters with large weights tolerate more noise than filters with small ones. Noise in proportion to
each filter's norm smooths all of them equally, so one radius fits all layers.
"""

import keras

from keras_smoothout.checks import check_choice
from keras_smoothout.methods.smoothout import SmoothOut


@keras.saving.register_keras_serializable("keras_smoothout")
class AdaSmoothOut(SmoothOut):
    """SmoothOut whose noise adapts to each filter: `SmoothOut(inner, radius, scale="filter")`.

        u_f = radius * ||w_f|| * n_f / ||n_f||          for each filter f, n ~ distribution

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name.
        radius: Norm of a filter's noise over the norm of the filter. A float or a
            `LearningRateSchedule` of the iteration. Defaults to `0.1`.
        scale: `"filter"`, which makes it AdaSmoothOut. Defaults to `"filter"`.
        **kwargs: As for `SmoothOut`.

    Reduces to: `inner` when `radius=0`.
    Cost: `copies` gradients per step and one copy of the weights.
    Differs from the paper: nothing.

    Example:
        >>> import keras, keras_smoothout as ks
        >>> ks.AdaSmoothOut(keras.optimizers.SGD(0.1), radius=0.3).scale
        'filter'

    Reference: Wen et al., 2018, arXiv:1805.07898, Section 4 (AdaSmoothOut); Li et al., *Visualizing
        the Loss Landscape of Neural Nets*, 2018, arXiv:1712.09913, Section 4 (filters).
    """

    def __init__(self, inner, radius=0.1, scale="filter", **kwargs):
        check_choice("scale", scale, ("filter",))
        super().__init__(inner, radius, scale=scale, **kwargs)
