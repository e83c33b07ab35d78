"""Names of models that are registered without a file.

keras:MobileNet?alpha=0.25     `app.domain.catalogue`
hf://owner/name/model.keras    `app.domain.hubs`
ckpt-01jd8k2v7e…               the weights at the end of a phase of a job
"""

from app.domain import catalogue, hubs

CHECKPOINT = "ckpt-"


def is_name(text: str) -> bool:
    """Whether a text names a model outside of this installation, well spelled or not."""
    return catalogue.is_name(text) or hubs.is_name(text)


def is_checkpoint(text: str) -> bool:
    """Whether a text is meant as the id of a checkpoint."""
    return text.startswith(CHECKPOINT)


def spelled(text: str) -> str:
    """A name in its shortest spelling. Raises `UserError` that says what is wrong with it, and what there is."""
    return str(hubs.parse(text)) if hubs.is_name(text) else str(catalogue.parse(text))


def title(text: str) -> str:
    """What people may call a model with this name: `MobileNet-alpha-0.25`, `owner-name`."""
    if hubs.is_name(text):
        return hubs.parse(text).repository.replace("/", "-")
    return catalogue.title(text)


def is_fixed(text: str) -> bool:
    """Whether a right name, or the id of a checkpoint, means the same model for ever: a branch of the hub moves on."""
    return not hubs.is_name(text) or hubs.parse(text).is_pinned


def tells_rescale(text: str) -> bool:
    """Whether with the name it is known how the model wants its inputs."""
    return not hubs.is_name(text)
