"""From a phase's optimizer options to the optimizer of `keras.optimizers`; the names are the same."""

import keras

from app.domain.optimizers import Optimizer


def build_optimizer(options: Optimizer) -> keras.optimizers.Optimizer:
    """A new optimizer with these options and no state yet."""
    classes = {
        "sgd": keras.optimizers.SGD,
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "rmsprop": keras.optimizers.RMSprop,
        "nadam": keras.optimizers.Nadam,
        "adagrad": keras.optimizers.Adagrad,
    }
    arguments = options.model_dump(exclude={"type"})
    if options.type == "adamw" and options.weight_decay is None:
        arguments["weight_decay"] = 0.0  # AdamW refuses None, which all the others take
    return classes[options.type](**arguments)
