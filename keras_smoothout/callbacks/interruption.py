"""`Interruption`: Ctrl-C and SIGTERM end a training where nothing is lost."""

import signal
import threading

import keras

from keras_smoothout.callbacks.checkpoint import Checkpoint
from keras_smoothout.callbacks.resuming import running_fit

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(keras.callbacks.Callback):
    """End a training after the step in which Ctrl-C or SIGTERM came, once it is saved.

    Python's handler of Ctrl-C raises wherever the program happens to be: what is raised in a
    destructor is lost, and what is raised between two assignments leaves half of them. SIGTERM,
    which schedulers send, ends the process at once. While `fit` runs, this callback only notes
    them. Before the next step it lets `checkpoint` save, puts the handlers back that were there,
    and raises `KeyboardInterrupt`, or `SystemExit(143)` for SIGTERM. A handler of your own is
    called before. A second signal does not wait.

    In a validation it ends the training at once if all steps before are saved, as `every_steps` and
    `every_minutes` of `Checkpoint` do it, and else after the epoch. Outside of the main thread,
    where Python delivers no signals, it does nothing. A signal that the process ignores, as
    background jobs do Ctrl-C, stays ignored.

    Args:
        checkpoint: The `Checkpoint` of the same `fit`, or `None`. Defaults to `None`.
        noted: List to which the program's own handlers add the numbers of signals. There are then
            none of this callback, and it raises `KeyboardInterrupt`. Defaults to `None`.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np, signal, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> class Sender(keras.callbacks.Callback):
        ...     def on_train_batch_end(self, batch, logs=None):
        ...         signal.raise_signal(signal.SIGTERM)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     checkpoint = ks.callbacks.Checkpoint(directory)
        ...     callbacks = [Sender(), checkpoint, ks.callbacks.Interruption(checkpoint)]
        ...     try:
        ...         model.fit(np.ones((8, 4)), np.ones((8, 1)), 2, verbose=0, callbacks=callbacks)
        ...     except SystemExit as end:
        ...         print(end.code, checkpoint.position, checkpoint.saved)
        143 epoch 0, step 1 True
    """

    def __init__(self, checkpoint=None, noted=None):
        super().__init__()
        if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
            raise ValueError(
                "`checkpoint` must be a `keras_smoothout.callbacks.Checkpoint` or None. Received: "
                f"checkpoint={checkpoint}"
            )
        if noted is not None and not isinstance(noted, list):
            raise ValueError(f"`noted` must be a list or None. Received: noted={noted}")
        self.checkpoint = checkpoint
        self._listens = noted is None
        self._noted = [] if noted is None else noted
        self._handlers = {}  # Those that were there.
        self._trained = None  # The model; `self.model` assigns to its variables, on JAX.

    def on_train_begin(self, logs=None):
        if not self._listens or threading.current_thread() is not threading.main_thread():
            return
        self._put_back()  # After a `fit` that an error has ended.
        self._noted.clear()
        self._trained = self.model
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                self._handlers[number] = handler
                signal.signal(number, self._note)

    def _note(self, number, frame):
        if not self._noted and running_fit(self._trained, frame) is not None:
            self._noted.append(number)
            return
        self._put_back()  # The second one, or `fit` has ended by an error.
        signal.raise_signal(number)

    def _put_back(self):
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
        self._handlers = {}

    def on_epoch_begin(self, epoch, logs=None):
        self._end()

    def on_train_batch_begin(self, batch, logs=None):
        self._end()

    def on_test_batch_begin(self, batch, logs=None):
        # The model may hold other weights here: nothing is saved.
        if self.checkpoint is None or self.checkpoint.saved:
            self._end()

    def on_train_end(self, logs=None):
        self._end(saves=False)
        self._put_back()

    def _end(self, saves=True):
        if not self._noted:
            return
        number, handler = self._noted[0], self._handlers.get(self._noted[0])
        try:
            if self.checkpoint is not None and saves:
                self.checkpoint.save()
        finally:
            self._put_back()
            if self.checkpoint is not None:
                self.checkpoint.close()
        if not self._listens:
            raise KeyboardInterrupt
        self._noted.clear()
        if callable(handler) and handler is not signal.default_int_handler:
            signal.raise_signal(number)
        if number == signal.SIGTERM:
            raise SystemExit(128 + number)
        raise KeyboardInterrupt
