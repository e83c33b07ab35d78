"""How to load each file of a result, as Python code that runs: on an example of zeros, where yours should stand."""

from collections.abc import Sequence

from app.domain.exports import Export, ExportedInput
from app.domain.spec import Task

ANY_SIZE = 64
"""For an axis that takes any size."""


def answer(task: Task, labels: Sequence[str] | None) -> str:
    """What the numbers mean that come out."""
    if task == "binary" and labels:
        return "One number comes out: the probability of the second class in `labels.json`."
    if labels:
        return "One number for each class comes out, in the order of `labels.json`."
    return "The targets come out, in their own units."


def keras(inputs: Sequence[ExportedInput]) -> str:
    """`model.keras`, by Keras."""
    return "\n".join(
        [
            "import keras",
            *_imports(inputs),
            "",
            'model = keras.saving.load_model("model.keras")',
            f"examples = {_packed(inputs)}",
            "print(model.predict(examples))",
        ]
    )


def of(export: Export) -> str:
    """An export, by its runtime."""
    lines = {"saved_model": _saved_model, "litert": _litert, "litert_int8": _litert, "onnx": _onnx}[export.format]
    return "\n".join(lines(export))


def _saved_model(export: Export) -> list[str]:
    return [
        "import shutil",
        "",
        *dict.fromkeys([*_imports(export.inputs), "import tensorflow as tf"]),
        "",
        f'shutil.unpack_archive("{export.file}", ".")',
        'model = tf.saved_model.load("saved_model")',
        f"examples = {_packed(export.inputs)}",
        'print(model.serve(examples)["predictions"].numpy())',
    ]


def _litert(export: Export) -> list[str]:
    return [
        "import numpy as np",
        "from ai_edge_litert.interpreter import Interpreter",
        "",
        f'interpreter = Interpreter("{export.file}")',
        "predict = interpreter.get_signature_runner()",
        f"examples = {_named(export.inputs)}",
        'print(predict(**examples)["predictions"])',
    ]


def _onnx(export: Export) -> list[str]:
    return [
        "import numpy as np",
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{export.file}", providers=["CPUExecutionProvider"])',
        f"examples = {_named(export.inputs)}",
        'print(session.run(["predictions"], examples)[0])',
    ]


def _imports(inputs: Sequence[ExportedInput]) -> list[str]:
    texts = [each.dtype == "string" for each in inputs]
    return [*(["import numpy as np"] if not all(texts) else []), *(["import tensorflow as tf"] if any(texts) else [])]


def _packed(inputs: Sequence[ExportedInput]) -> str:
    """One array, or a dictionary where there are several inputs; text as TensorFlow's tensors."""
    if len(inputs) == 1:
        return _zeros(inputs[0], text="tf.constant({})")
    return "{" + ", ".join(f"{each.name!r}: {_zeros(each, text='tf.constant({})')}" for each in inputs) + "}"


def _named(inputs: Sequence[ExportedInput]) -> str:
    return "{" + ", ".join(f'"{each.name}": {_zeros(each, text="np.array({}, dtype=object)")}' for each in inputs) + "}"


def _zeros(taken: ExportedInput, *, text: str) -> str:
    """A batch of one."""
    sizes = [1, *(ANY_SIZE if size is None else size for size in taken.shape[1:])]
    if taken.dtype != "string":
        return f'np.zeros({tuple(sizes)}, "{taken.dtype}")'
    nested = '"some text"'
    for _ in sizes:
        nested = f"[{nested}]"
    return text.format(nested)
