"""What OpenAPI shows beside the schemas: examples of jobs, and what FastAPI cannot derive."""

from typing import Any

from fastapi.openapi.models import Example

from app.domain.job import MAX_METADATA

_MODEL, _DATASET = "model-01jd8k2v7e0000000000000000", "ds-01jd8k2v7e0000000000000000"

JOB_EXAMPLES: dict[str, Example] = {
    "textbook": {
        "summary": "The textbook recipe, which is also the default",
        "description": "Train the head on frozen layers, then everything, slowly.",
        "value": {
            "model": _MODEL,
            "training_file": _DATASET,
            "cut": {"drop_last": 1},
            "head": {"layers": [{"type": "dropout", "rate": 0.2}]},
            "schedule": [
                {
                    "name": "head",
                    "unfreeze": "none",
                    "epochs": 4,
                    "optimizer": {"type": "sgd", "learning_rate": 0.01},
                },
                {
                    "name": "all",
                    "unfreeze": "all",
                    "epochs": 16,
                    "optimizer": {"type": "sgd", "learning_rate": 0.0001},
                },
            ],
            "batch_size": 32,
            "seed": 42,
            "metadata": {"team": "shoes"},
        },
    },
    "shortest": {
        "summary": "A model and a dataset; the textbook recipe does the rest",
        "value": {"model": _MODEL, "training_file": _DATASET},
    },
    "preset": {
        "summary": "A preset with options, for classes of unequal size",
        "description": "The job shows the phases that the preset stands for.",
        "value": {
            "model": _MODEL,
            "training_file": _DATASET,
            "schedule": {"preset": "fine_tune", "epochs": 8, "learning_rate": 0.002},
            "class_weights": "balanced",
            "label_smoothing": 0.1,
        },
    },
    "vocabulary": {
        "summary": "What a phase can say",
        "value": {
            "model": _MODEL,
            "training_file": _DATASET,
            "schedule": [
                {
                    "name": "head",
                    "epochs": 10,
                    "optimizer": {"type": "adamw", "learning_rate": 0.001, "weight_decay": 0.01},
                    "learning_rate_schedule": {"type": "one_cycle"},
                },
                {
                    "name": "all",
                    "unfreeze": "all",
                    "epochs": 20,
                    "start_from": "best",
                    "optimizer": {"type": "adamw", "learning_rate": 0.0003, "global_clipnorm": 1.0},
                    "optimizer_state": "carry",
                    "learning_rate_schedule": {"type": "cosine", "warmup_epochs": 0.5},
                    "layer_decay": 0.8,
                    "gradient_accumulation": 4,
                    "early_stopping": {"patience": 5},
                },
            ],
        },
    },
    "part": {
        "summary": "A pooled head, then the last fifth of the layers, on pictures that differ in every epoch",
        "value": {
            "model": _MODEL,
            "training_file": _DATASET,
            "cut": {"layer": "conv_pw_13_relu"},
            "head": {"layers": [{"type": "global_average_pooling"}, {"type": "dropout", "rate": 0.3}]},
            "schedule": [
                {"unfreeze": "none", "epochs": 10, "optimizer": {"type": "adam", "learning_rate": 0.001}},
                {
                    "unfreeze": {"fraction": 0.2},
                    "epochs": 10,
                    "optimizer": {"type": "adam", "learning_rate": 0.00001},
                    "early_stopping": {"patience": 3},
                },
            ],
            "preprocessing": {"rescale": "minus_one_to_one", "image_size": [128, 128]},
            "augmentation": [
                {"type": "flip", "mode": "horizontal"},
                {"type": "rotation", "degrees": 10},
                {"type": "color", "brightness": 0.1, "contrast": 0.1},
            ],
        },
    },
}

RETRY_EXAMPLES: dict[str, Example] = {
    "same": {"summary": "The same again", "value": {}},
    "more_time": {
        "summary": "With more time, before others",
        "value": {"max_seconds": 7200, "priority": "high"},
    },
}

FORK_EXAMPLES: dict[str, Example] = {
    "longer": {
        "summary": "After the head's phase, another second phase",
        "value": {
            "after_phase": "head",
            "schedule": [
                {
                    "name": "all",
                    "unfreeze": "all",
                    "epochs": 8,
                    "optimizer": {"type": "adam", "learning_rate": 0.00003},
                }
            ],
            "metadata": {"team": "shoes", "try": "2"},
        },
    },
    "seed": {
        "summary": "The phases that are left, with another seed",
        "value": {"checkpoint": "ckpt-01jd8k2v7e0000000000000000", "seed": 7},
    },
}

METADATA_PARAMETER: dict[str, Any] = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": f"Only jobs with these metadata: `metadata[team]=shoes`; at most {MAX_METADATA} pairs.",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": MAX_METADATA},
}

EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "A page of events; or, if `Accept` asks for it, the stream of all of them: `id` is the event's number, "
            "`event` its type, `data` the event itself, and the last one is `completed`."
        ),
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'id: 7\nevent: completed\ndata: {"object": "fine_tuning.job.event", "number": 7, …}\n\n',
            }
        },
    },
    204: {"description": "A stream was asked for, the job has ended, and all of its events are known already."},
}
