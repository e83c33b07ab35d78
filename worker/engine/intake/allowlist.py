"""What a model file may name: the classes of Keras that compute on tensors and do nothing else.

An allow-list, because Keras' own safe mode is a list of what is forbidden, and new ways around it are found
every few months. Whatever is not named here is refused; `REFUSED` only makes some refusals read better.
"""

from typing import Literal

Kind = Literal["model", "layer", "operation", "initializer", "regularizer", "constraint", "policy"]

MODELS = frozenset({"Sequential", "Functional"})

LAYERS = frozenset({
    # core
    "Activation", "Dense", "EinsumDense", "Embedding", "Identity", "InputLayer", "Masking",
    # activations
    "ELU", "LeakyReLU", "PReLU", "ReLU", "Softmax",
    # convolutions
    "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose",
    "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D",
    # pooling
    "AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D",
    # shapes
    "Cropping1D", "Cropping2D", "Cropping3D", "Flatten", "Permute", "RepeatVector", "Reshape",
    "UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D",
    # merging
    "Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Subtract",
    # normalization and regularization
    "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Dropout", "GaussianDropout", "GaussianNoise",
    "GroupNormalization", "LayerNormalization", "RMSNormalization", "SpatialDropout1D", "SpatialDropout2D",
    "SpatialDropout3D", "UnitNormalization",
    # sequences and attention
    "AdditiveAttention", "Attention", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "GRU", "GRUCell",
    "GroupQueryAttention", "LSTM", "LSTMCell", "MultiHeadAttention", "RNN", "SimpleRNN", "SimpleRNNCell",
    "StackedRNNCells", "TimeDistributed",
    # texts; their vocabularies are checked in `vocabularies`
    "StringLookup", "TextVectorization",
    # preprocessing of numbers and images
    "CenterCrop", "Normalization", "RandomBrightness", "RandomContrast", "RandomCrop", "RandomFlip", "RandomRotation",
    "RandomTranslation", "RandomZoom", "Rescaling", "Resizing",
})  # fmt: skip

BUILDING_BLOCKS = {
    "LayerScale": "keras.src.applications.convnext",
    "CustomScaleLayer": "keras.src.applications.inception_resnet_v2",
}
"""Layers of `keras.applications` that Keras does not export, and their modules."""

OPERATIONS: dict[str, frozenset[str]] = {
    # Of functions on tensors (`x + y` in a functional model) those that cannot make an output much larger than their
    # inputs. Never keras.src.ops.core: it holds Switch, Cond, Map and Scan, which call what they are given.
    "keras.src.ops.numpy": frozenset({
        "Absolute", "Add", "Clip", "Concatenate", "Divide", "Exp", "ExpandDims", "GetItem", "Log", "Log1p", "Max",
        "Maximum", "Mean", "Min", "Minimum", "Multiply", "Negative", "Power", "Reshape", "Sqrt", "Square", "Squeeze",
        "Stack", "Subtract", "Sum", "Tanh", "Transpose", "TrueDivide",
    }),
    "keras.src.ops.nn": frozenset({
        "Elu", "Gelu", "HardSigmoid", "HardSilu", "LeakyRelu", "LogSoftmax", "Relu", "Relu6", "Selu", "Sigmoid",
        "Silu", "Softmax", "Softplus", "Softsign",
    }),
}  # fmt: skip

INITIALIZERS = frozenset({
    "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity", "LecunNormal", "LecunUniform",
    "Ones", "Orthogonal", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Zeros",
})  # fmt: skip
REGULARIZERS = frozenset({"L1", "L1L2", "L2", "OrthogonalRegularizer"})
CONSTRAINTS = frozenset({"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"})

POLICIES = frozenset({"float16", "float32", "float64", "mixed_bfloat16", "mixed_float16"})
"""Names of dtype policies: quantized ones are no place to start fine-tuning from."""
POLICY_CLASSES = frozenset({"DTypePolicy", "FloatDTypePolicy"})

DTYPES = frozenset({
    "bool", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "uint16", "uint32", "uint8",
})  # fmt: skip
"""Of constants and operations; inputs may be texts as well."""
TEXT = "string"

ACTIVATIONS = frozenset({
    "celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "leaky_relu",
    "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus",
    "softsign", "swish", "tanh",
})  # fmt: skip
"""Functions that may be named, by themselves or as `{"class_name": "function"}`."""

MODULES: dict[Kind, str] = {
    "layer": "keras.layers",
    "initializer": "keras.initializers",
    "regularizer": "keras.regularizers",
    "constraint": "keras.constraints",
    "policy": "keras",
}
"""Where today's Keras exports each kind; models and operations have modules of their own."""
MODEL_MODULES = {"Sequential": "keras", "Functional": "keras.src.models.functional"}

CLASSES: dict[Kind, frozenset[str]] = {
    "model": MODELS,
    "layer": LAYERS | frozenset(BUILDING_BLOCKS),
    "operation": frozenset().union(*OPERATIONS.values()),
    "initializer": INITIALIZERS,
    "regularizer": REGULARIZERS,
    "constraint": CONSTRAINTS,
    "policy": POLICY_CLASSES,
}

_FOREIGN = "it runs another framework's code from the file"
_WORDS = (
    "Thaw takes texts through TextVectorization or StringLookup only; register the model with one of these, or without"
)
_CUDNN = "its weights are laid out for one kind of GPU; copy them into the plain LSTM or GRU layer and save that"
_GONE = "Keras 3 has it no more; rebuild the model with layers of today and save it again"
_GRAPH = "it calls TensorFlow functions by name; build the model anew with Keras' own layers (Rescaling, Add, …)"
REFUSED: dict[str, str] = {
    "Lambda": "it runs Python code that is stored in the file; replace it with a Keras layer that does the same",
    "__lambda__": "it is Python code that is stored in the file; replace it with a Keras layer that does the same",
    "TFSMLayer": "it opens another file and runs the graph in it",
    "KerasLayer": "it fetches a model from TensorFlow Hub; save the model with keras.applications' layers instead",
    "TorchModuleWrapper": _FOREIGN,
    "FlaxLayer": _FOREIGN,
    "JaxLayer": _FOREIGN,
    "TFOpLambda": _GRAPH,
    "SlicingOpLambda": _GRAPH,
    "ClassMethod": _GRAPH,
    "InstanceMethod": _GRAPH,
    "InstanceProperty": _GRAPH,
    "TensorFlowOpLayer": _GRAPH,
    "CuDNNGRU": _CUDNN,
    "CuDNNLSTM": _CUDNN,
    "LocallyConnected1D": _GONE,
    "LocallyConnected2D": _GONE,
    "RandomHeight": _GONE,
    "RandomWidth": _GONE,
    "IntegerLookup": _WORDS,
    "Hashing": _WORDS,
    "QuantizedDTypePolicy": "the model is quantized; register the model from before quantization",
    "DTypePolicyMap": "its layers have dtype policies by name; register a model with one policy",
}
"""Why some well-known classes are refused, and what to do."""


def module_of(kind: Kind, name: str, given: str | None) -> str | None:
    """The module that the canonical config gives for an allowed class, or `None` if the class is not allowed.

    `given` is what the file says; it decides only for operations, which several modules have under one name.
    """
    if kind == "operation":
        return given if name in OPERATIONS.get(given or "", ()) else None
    if name not in CLASSES[kind]:
        return None
    return MODEL_MODULES[name] if kind == "model" else BUILDING_BLOCKS.get(name, MODULES[kind])


def module_in_hdf5(name: str, config: object) -> str | None:
    """The module of an operation in an HDF5 file, which names none: operations have no `trainable`, layers do."""
    if not isinstance(config, dict) or "trainable" in config:
        return None
    return next((module for module, names in OPERATIONS.items() if name in names), None)


def kind_of(module: str | None, key: str) -> Kind | None:
    """What an object is, by the module it names, or in files of Keras 2, which name none, by where it stands."""
    if module is None:
        return _kind_by_key(key)
    parts = [part for part in module.split(".") if part not in ("src", "tf_keras", "keras", "tensorflow", "python")]
    return _KIND_BY_MODULE.get(parts[0] if parts else "") if is_kerass(module) else None


def is_kerass(module: str | None) -> bool:
    """Whether a module is Keras' own, in any of its homes; files of Keras 2 name none."""
    return module is None or module.split(".")[0] in ("keras", "tf_keras", "tensorflow")


def is_nickname(kind: Literal["initializer", "regularizer", "constraint"], name: str) -> bool:
    """Whether a text such as `glorot_uniform` or `l2` names an allowed class."""
    return name.replace("_", "").lower() in {known.lower() for known in CLASSES[kind]}


_KIND_BY_MODULE: dict[str, Kind] = {
    "": "policy",
    "layers": "layer",
    "applications": "layer",
    "ops": "operation",
    "initializers": "initializer",
    "regularizers": "regularizer",
    "constraints": "constraint",
    "dtype_policies": "policy",
    "mixed_precision": "policy",
    "models": "model",
    "engine": "model",
}


def _kind_by_key(key: str) -> Kind:
    if key == "dtype":
        return "policy"
    for kind in ("initializer", "regularizer", "constraint"):
        if key.endswith(kind):
            return kind
    return "layer"
