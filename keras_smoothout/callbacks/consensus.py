"""`ConsensusDistance`: a callback that measures how far copies of the weights are apart."""

import keras
import numpy as np

from keras_smoothout.checks import received
from keras_smoothout.evaluation import sync


class ConsensusDistance(keras.callbacks.Callback):
    """Mean squared distance of the copies from their mean: `mean_i ||w_i - mean(w)||**2`.

    It is measured at the end of each epoch, for a `keras_smoothout.Copies`. The epoch's logs hold
    it as `consensus_distance`, for the history, TensorBoard and CSVLogger: pass this callback
    before those.

    Raises:
        ValueError: When the training begins, if the model holds no copies.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> copies = ks.Copies(model, copies=2, initial="different")
        >>> copies.compile(ks.DPSGD("sgd", graph="complete"), "mse")
        >>> x = np.ones((8, 2))
        >>> history = copies.fit(x, x[:, :1], verbose=0, callbacks=[ks.ConsensusDistance()])
        >>> len(history.history["consensus_distance"])
        1

    Reference: Kong et al., *Consensus Control for Decentralized Deep Learning*, ICML 2021,
        arXiv:2102.04828.
    """

    def on_train_begin(self, logs=None):
        if not hasattr(self.model, "distances"):
            raise ValueError(
                "`ConsensusDistance` is for `keras_smoothout.Copies`. "
                f"{received('model', self.model)}"
            )

    def on_epoch_end(self, epoch, logs=None):
        sync(self.model)
        if logs is not None:
            logs["consensus_distance"] = float(np.mean(self.model.distances() ** 2))
