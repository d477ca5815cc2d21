"""What Keras itself leaves to its backends, as pure functions on TensorFlow and on JAX."""

try:
    import keras
except ModuleNotFoundError as error:  # Keras raises it for the backend that it is set to use.
    if error.name not in ("tensorflow", "jax"):
        raise
    raise ImportError(
        f"Keras is set to run on {error.name}, which is not installed. Either "
        f'`pip install "keras-smoothout[{error.name}]"`, or set KERAS_BACKEND to a backend that '
        f"is: tensorflow or jax. Received: {error}"
    ) from error

if keras.backend.backend() == "tensorflow":
    from keras_smoothout.backend import tensorflow as _backend
elif keras.backend.backend() == "jax":
    from keras_smoothout.backend import jax as _backend
else:
    raise ImportError(
        "keras_smoothout runs on Keras' tensorflow and jax backends. Set KERAS_BACKEND=tensorflow "
        "or KERAS_BACKEND=jax before the first `import keras`. Received: "
        f"KERAS_BACKEND={keras.backend.backend()}"
    )

KEEPS_ASSIGNED = _backend.KEEPS_ASSIGNED
all_reduce_sum = _backend.all_reduce_sum
assign_if = _backend.assign_if
check_least = _backend.check_least
compiled = _backend.compiled
cond = _backend.cond
dense = _backend.dense
first_axis = _backend.first_axis
fused = _backend.fused
hessian_product = _backend.hessian_product
initial = _backend.initial
linearize = _backend.linearize
over_devices = _backend.over_devices
read = _backend.read
replica = _backend.replica
scan = _backend.scan
snapshot = _backend.snapshot
spread = _backend.spread
square_sum = _backend.square_sum
unscale_loss = _backend.unscale_loss
value_and_grad = _backend.value_and_grad
