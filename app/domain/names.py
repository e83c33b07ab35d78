"""Names of models that are registered without a file.

keras:MobileNet?alpha=0.25     `app.domain.catalogue`
hf://owner/name/model.keras    `app.domain.hubs`
keras_hub:resnet_18_imagenet   `app.domain.kerashub`
ckpt-01jd8k2v7e…               the weights at the end of a phase of a job
"""

from app.domain import catalogue, hubs, kerashub

CHECKPOINT = "ckpt-"


def is_name(text: str) -> bool:
    """Whether a text names a model outside of this installation, well spelled or not."""
    return any(kind.is_name(text) for kind in (catalogue, hubs, kerashub))


def is_checkpoint(text: str) -> bool:
    """Whether a text is meant as the id of a checkpoint."""
    return text.startswith(CHECKPOINT)


def spelled(text: str) -> str:
    """A name in its shortest spelling. Raises `UserError` that says what is wrong with it, and what there is."""
    if hubs.is_name(text):
        return str(hubs.parse(text))
    return str(kerashub.parse(text) if kerashub.is_name(text) else catalogue.parse(text))


def title(text: str) -> str:
    """What people may call a model with this name: `MobileNet-alpha-0.25`, `owner-name`, `resnet_18_imagenet`."""
    if hubs.is_name(text):
        return hubs.parse(text).repository.replace("/", "-")
    if kerashub.is_name(text):
        return kerashub.parse(text).preset
    return catalogue.title(text)


def is_fixed(text: str) -> bool:
    """Whether a right name, or the id of a checkpoint, means the same model for ever.

    A branch of the hub moves on, and a preset without a version is another one after an update of KerasHub.
    """
    if hubs.is_name(text):
        return hubs.parse(text).is_pinned
    return not kerashub.is_name(text) or kerashub.parse(text).version is not None


def tells_rescale(text: str) -> bool:
    """Whether with the name alone it is known how the model wants its inputs."""
    return catalogue.is_name(text)
