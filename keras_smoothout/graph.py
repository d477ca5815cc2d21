"""The graph of a functional model, walked from its inputs to its outputs."""

import keras

from keras_smoothout import keras_internals

OURS = ("keras", "keras_smoothout")  # Whose classes do what their documentation says.


def walk(model, inputs, rule):
    """Values of the outputs of `model`, where `rule` stands for each call of an operation.

    Models inside of models are walked as well. What the values are is for `rule` to say.

    Args:
        model: A functional or sequential model.
        inputs: List of values, one for each of `functional(model).inputs`.
        rule: Function of an operation, the list of values of the tensors that it is called with,
            and the list of these tensors. Returns the values of its outputs.

    Raises:
        ValueError: If a model, or one inside, has a `call` of its own.
    """
    graph = functional(model)
    values = {id(t): value for t, value in zip(graph.inputs, inputs, strict=True)}
    for node in keras_internals.nodes(graph):
        tensors = node.arguments.keras_tensors
        if not tensors:  # An input.
            continue
        given = [values[id(t)] for t in tensors]
        inside = isinstance(node.operation, keras.Model)
        found = (
            walk(node.operation, given, rule) if inside else rule(node.operation, given, tensors)
        )
        values |= {id(t): value for t, value in zip(node.outputs, found, strict=False)}
    return [values[id(t)] for t in graph.outputs]


def functional(model):
    """`model` as a functional model of the same layers."""
    calls = (keras_internals.Functional.call, keras.Sequential.call)
    if not isinstance(model, keras.Model) or not model.built or type(model).call not in calls:
        raise ValueError(
            "`model` must be a built functional or sequential model, and so must be models inside "
            "of it: the code of a `call` says nothing about which layer feeds which. Received: "
            f"model={getattr(model, 'name', model)} of {type(model).__name__}"
        )
    if isinstance(model, keras_internals.Functional):
        return model
    return keras.Model(model.inputs, model.outputs, name=model.name)


def kind(operation, table):
    """The entry of `table` for a layer or operation of Keras or of this package, or `None`.

    Args:
        operation: A layer, by its class or a base of it; or an operation of `keras.ops`.
        table: Dict from classes of layers, and names of operations, to anything.
    """
    cls = type(operation)
    if cls.__module__.split(".")[0] not in OURS:
        return None
    if not isinstance(operation, keras.layers.Layer):
        return table.get(cls.__name__)
    return next((table[base] for base in cls.__mro__ if base in table), None)
