"""Make the two files that `sms_spam.yaml` names, from a CSV file of texts such as the SMS Spam Collection.

    python examples/text_source.py sms_spam.csv        # needs TensorFlow: pip install 'thaw[worker]'

The first half of the texts trains a source without looking at any label: from one half of a text's words it learns to
tell which frequent words stand in the other. `text_source.keras` takes strings; its vocabulary is inside. The second
half, with its labels, becomes `texts.csv`: messages that the source has never seen.
"""

import csv
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).parent
WORDS = 3000
FREQUENT = 200
"""So many of the most frequent words are to be predicted."""


def main(file: Path, folder: Path = FOLDER) -> None:
    """Train the source on the first half of the texts, and write the second."""
    keras.utils.set_random_seed(42)
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    half = len(rows) // 2
    texts = [row["text"] for row in rows[:half]]

    vectorize = keras.layers.TextVectorization(max_tokens=WORDS, output_sequence_length=60, name="words")
    vectorize.adapt(tf.constant(texts))
    source = keras.Sequential(
        [
            keras.Input((), dtype="string"),
            vectorize,
            keras.layers.Embedding(WORDS, 32, name="embedding"),
            keras.layers.GlobalAveragePooling1D(name="mean"),
            keras.layers.Dense(64, activation="relu", name="hidden"),
            keras.layers.Dense(FREQUENT, activation="sigmoid", name="other_words"),
        ],
        name="text_source",
    )
    source.compile(keras.optimizers.Adam(0.003), "binary_crossentropy")
    seen, hidden = zip(*(_halves(text) for text in texts), strict=True)
    source.fit(tf.constant(seen), _frequent(vectorize, hidden), epochs=15, verbose=0)
    source.save(folder / "text_source.keras")

    with (folder / "texts.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, ["label", "text"])
        writer.writeheader()
        writer.writerows({"label": row["label"], "text": row["text"]} for row in rows[half:])
    print(f"Wrote text_source.keras and texts.csv, {len(rows) - half} messages, to {folder}.")


def _halves(text: str) -> tuple[str, str]:
    """Every other word of a text, and the others."""
    words = text.split()
    return " ".join(words[::2]), " ".join(words[1::2])


def _frequent(vectorize: keras.layers.TextVectorization, texts: tuple[str, ...]) -> np.ndarray:
    """Which of the most frequent words each text has, float32 `(n, FREQUENT)`."""
    numbers = np.asarray(vectorize(tf.constant(texts)))
    hot = np.zeros((len(texts), WORDS), "float32")
    np.put_along_axis(hot, numbers, 1, axis=1)
    return hot[:, 2 : FREQUENT + 2]  # 0 and 1 are padding and unknown words


if __name__ == "__main__":
    main(Path(sys.argv[1]))
