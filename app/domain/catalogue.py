"""The catalogue: models that anybody may start from by name, without a file.

    keras:MobileNet?alpha=0.25&input_size=160&include_top=false

    name   = "keras:" application [ "?" option { "&" option } ]
    option = include_top | input_size | alpha | minimalistic | pooling | weights, "=", value

Every application of `keras.applications` is here. What an option may be follows from the weights that Keras has. The
API knows all this without Keras; a test of the worker compares it with Keras itself.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NoReturn

from app.domain.base import Value
from app.domain.errors import UserError
from app.domain.spec import Rescale

PREFIX = "keras:"
MAX_INPUT_SIZE = 2048
MAX_SUGGESTIONS = 3
ANY_SIZE: Literal["any"] = "any"

Pooling = Literal["avg", "max"]
Weights = Literal["imagenet", "random"]


class Application(Value):
    """One application of Keras: what its names may say, and how it wants its inputs."""

    name: str
    """As Keras spells it."""
    parameters: int
    """Numbers in its weights with the default options."""
    input_size: int
    """Height and width that it was trained with."""
    rescale: Rescale
    """How it wants its inputs; `none` where it scales 8-bit values itself."""
    min_input_size: int = 32
    """The smallest that its graph can take."""
    top_sizes: tuple[int, ...] | None = None
    """Sizes for which there are weights with the classification layers; `None`: only `input_size`."""
    any_top_size: bool = False
    """Whether one set of weights serves every size, classification layers included."""
    any_size: bool = True
    """Whether the size may be left open (without the classification layers)."""
    alphas: tuple[float, ...] = (1.0,)
    """Widths for which there are weights."""
    minimalistic: bool = False
    """Whether there is a variant without the parts that are slow on some processors."""


class CatalogueName(Value):
    """A name of the catalogue, taken apart; `str()` puts it together again, without what is the default."""

    application: Application
    include_top: bool = True
    """With the classification layers for the 1,000 classes of ImageNet."""
    input_size: int | None = None
    """Height and width of its input; `None`: any."""
    alpha: float = 1.0
    """How wide its layers are, as a factor."""
    minimalistic: bool = False
    """MobileNetV3 without squeeze-and-excite, hard-swish and 5 x 5 convolutions."""
    pooling: Pooling | None = None
    """Pools the features of a model without classification layers."""
    weights: Weights = "imagenet"
    """`random`: new weights, the same in every registration; for training from scratch."""

    def __str__(self) -> str:
        said = {
            "alpha": f"{self.alpha:g}" if self.alpha != 1 else None,
            "include_top": None if self.include_top else "false",
            "input_size": None if self.input_size == self.application.input_size else self.input_size or ANY_SIZE,
            "minimalistic": "true" if self.minimalistic else None,
            "pooling": self.pooling,
            "weights": self.weights if self.weights != "imagenet" else None,
        }
        options = "&".join(f"{name}={value}" for name, value in said.items() if value is not None)
        return f"{PREFIX}{self.application.name}" + (f"?{options}" if options else "")


def is_name(text: str) -> bool:
    """Whether a text means a model of the catalogue, well spelled or not."""
    return text.startswith(PREFIX)


def parse(text: str) -> CatalogueName:
    """Take a name apart. Raises `UserError` that says which part is wrong, and what there is instead."""
    name, question, options = text.removeprefix(PREFIX).partition("?")
    application = APPLICATIONS.get(name)
    if application is None:
        _refuse_unknown("unknown_application", f"application '{name[:80]}'", name, list(APPLICATIONS))
    given = _given(options, application) if question else {}
    found = CatalogueName(
        application=application,
        include_top=_truth(given, "include_top", default=True),
        input_size=_input_size(given, application),
        alpha=_alpha(given, application),
        minimalistic=_truth(given, "minimalistic", default=False),
        pooling=_word(given, "pooling", ("avg", "max")),
        weights=_word(given, "weights", ("imagenet", "random")) or "imagenet",
    )
    _check_together(found)
    return found


def title(text: str) -> str:
    """A name as people may call the model: `MobileNet-alpha-0.25`."""
    return re.sub(r"[?&=]", "-", text.removeprefix(PREFIX))


def options_of(application: Application) -> dict[str, list[str]]:
    """Each option that an application takes, and what it may be; the default comes first."""
    found = {
        "include_top": ["true", "false"],
        "input_size": [str(application.input_size), f"{application.min_input_size} to {MAX_INPUT_SIZE}"],
        "pooling": ["avg", "max"],
        "weights": ["imagenet", "random"],
    }
    if application.any_size:
        found["input_size"].append(ANY_SIZE)
    if len(application.alphas) > 1:
        found["alpha"] = [f"{alpha:g}" for alpha in sorted(application.alphas, key=lambda alpha: alpha != 1)]
    if application.minimalistic:
        found["minimalistic"] = ["false", "true"]
    return found


# === Options ===


def _given(text: str, application: Application) -> Mapping[str, str]:
    known = list(options_of(application))
    given: dict[str, str] = {}
    for option in text.split("&"):
        name, equals, value = option.partition("=")
        if name not in known:
            _refuse_unknown("unknown_option", f"option '{name[:80]}' of '{application.name}'", name, known)
        if not equals or name in given:
            _refuse(f"Each option of a name stands once, as 'name=value'; received '{text[:200]}'.")
        given[name] = value
    return given


def _truth(given: Mapping[str, str], option: str, *, default: bool) -> bool:
    return {None: default, "true": True, "false": False}[_word(given, option, ("true", "false"))]


def _word(given: Mapping[str, str], option: str, allowed: Sequence[str]) -> str | None:
    value = given.get(option)
    if value is not None and value not in allowed:
        _refuse(f"{option} must be one of {', '.join(allowed)}; received '{value[:80]}'.")
    return value


def _alpha(given: Mapping[str, str], application: Application) -> float:
    text = given.get("alpha", "1")
    try:
        alpha = float(text)
    except ValueError:
        alpha = 0.0
    if alpha not in application.alphas:
        there = ", ".join(f"{known:g}" for known in application.alphas)
        _refuse(f"alpha of '{application.name}' must be one of {there}; received '{text[:80]}'.")
    return alpha


def _input_size(given: Mapping[str, str], application: Application) -> int | None:
    text = given.get("input_size", str(application.input_size))
    if text == ANY_SIZE and application.any_size:
        return None
    least = application.min_input_size
    size = int(text) if text.isdecimal() and len(text) < 6 else 0
    if not least <= size <= MAX_INPUT_SIZE:
        _refuse(
            f"input_size of '{application.name}' must be a whole number from {least} to {MAX_INPUT_SIZE}"
            f"{f', or {ANY_SIZE}' if application.any_size else ''}; received '{text[:80]}'."
        )
    return size


def _check_together(name: CatalogueName) -> None:
    application, size = name.application, name.input_size
    if name.include_top and name.pooling:
        _refuse("pooling is for models without classification layers: add include_top=false, or leave pooling out.")
    if name.include_top and size is None:
        _refuse("input_size=any is for models without classification layers: add include_top=false.")
    if name.minimalistic and name.alpha != 1:
        _refuse(f"There are minimalistic weights for alpha=1 only; received alpha={name.alpha:g}.")
    top_sizes = application.top_sizes or (application.input_size,)
    if name.include_top and name.weights == "imagenet" and not application.any_top_size and size not in top_sizes:
        there = " or ".join(str(known) for known in top_sizes)
        _refuse(
            f"With its classification layers '{application.name}' takes input_size={there}; received {size}. "
            "Other sizes need include_top=false."
        )


def _refuse_unknown(code: str, what: str, received: str, known: Sequence[str]) -> NoReturn:
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(received.lower(), by_lower, n=MAX_SUGGESTIONS, cutoff=0.5)
    nearest = [by_lower[name] for name in near]
    advice = f"Nearest: {', '.join(repr(name) for name in nearest)}." if nearest else f"There are: {', '.join(known)}."
    message = f"Unknown {what}. {advice}"
    raise UserError(message, code=code, param="model")


def _refuse(message: str) -> NoReturn:
    raise UserError(message, code="wrong_option", param="model")


# === What there is ===

_TF: Rescale = "minus_one_to_one"
_TORCH: Rescale = "imagenet_mean_std"
_CAFFE: Rescale = "imagenet_bgr_mean"
_INSIDE: Rescale = "none"


def _table(*applications: Application) -> Mapping[str, Application]:
    return {application.name: application for application in applications}


def _one(name: str, parameters: int, input_size: int, rescale: Rescale, **more: object) -> Application:
    fields = {"name": name, "parameters": parameters, "input_size": input_size, "rescale": rescale, **more}
    return Application.model_validate(fields)


_MOBILE_V3 = {"alphas": (0.75, 1.0), "minimalistic": True, "any_top_size": True}

APPLICATIONS: Mapping[str, Application] = _table(
    _one("ConvNeXtBase", 88_591_464, 224, _INSIDE),
    _one("ConvNeXtLarge", 197_767_336, 224, _INSIDE),
    _one("ConvNeXtSmall", 50_223_688, 224, _INSIDE),
    _one("ConvNeXtTiny", 28_589_128, 224, _INSIDE),
    _one("ConvNeXtXLarge", 350_196_968, 224, _INSIDE),
    _one("DenseNet121", 8_062_504, 224, _TORCH),
    _one("DenseNet169", 14_307_880, 224, _TORCH),
    _one("DenseNet201", 20_242_984, 224, _TORCH),
    _one("EfficientNetB0", 5_330_571, 224, _INSIDE),
    _one("EfficientNetB1", 7_856_239, 240, _INSIDE),
    _one("EfficientNetB2", 9_177_569, 260, _INSIDE),
    _one("EfficientNetB3", 12_320_535, 300, _INSIDE),
    _one("EfficientNetB4", 19_466_823, 380, _INSIDE),
    _one("EfficientNetB5", 30_562_527, 456, _INSIDE),
    _one("EfficientNetB6", 43_265_143, 528, _INSIDE),
    _one("EfficientNetB7", 66_658_687, 600, _INSIDE),
    _one("EfficientNetV2B0", 7_200_312, 224, _INSIDE),
    _one("EfficientNetV2B1", 8_212_124, 240, _INSIDE),
    _one("EfficientNetV2B2", 10_178_374, 260, _INSIDE),
    _one("EfficientNetV2B3", 14_467_622, 300, _INSIDE),
    _one("EfficientNetV2L", 119_027_848, 480, _INSIDE),
    _one("EfficientNetV2M", 54_431_388, 480, _INSIDE),
    _one("EfficientNetV2S", 21_612_360, 384, _INSIDE),
    _one("InceptionResNetV2", 55_873_736, 299, _TF, min_input_size=75),
    _one("InceptionV3", 23_851_784, 299, _TF, min_input_size=75),
    _one("MobileNet", 4_253_864, 224, _TF, alphas=(0.25, 0.5, 0.75, 1.0), top_sizes=(128, 160, 192, 224)),
    _one(
        *("MobileNetV2", 3_538_984, 224, _TF),
        alphas=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
        top_sizes=(96, 128, 160, 192, 224),
    ),
    _one("MobileNetV3Large", 5_507_432, 224, _INSIDE, **_MOBILE_V3),
    _one("MobileNetV3Small", 2_554_968, 224, _INSIDE, **_MOBILE_V3),
    _one("NASNetLarge", 88_949_818, 331, _TF, any_size=False),
    _one("NASNetMobile", 5_326_716, 224, _TF, any_size=False),
    _one("ResNet101", 44_707_176, 224, _CAFFE),
    _one("ResNet101V2", 44_675_560, 224, _TF),
    _one("ResNet152", 60_419_944, 224, _CAFFE),
    _one("ResNet152V2", 60_380_648, 224, _TF),
    _one("ResNet50", 25_636_712, 224, _CAFFE),
    _one("ResNet50V2", 25_613_800, 224, _TF),
    _one("VGG16", 138_357_544, 224, _CAFFE),
    _one("VGG19", 143_667_240, 224, _CAFFE),
    _one("Xception", 22_910_480, 299, _TF, min_input_size=71),
)
"""By name. `rescale` is the mode of the application's `preprocess_input`: tf, torch, caffe, or inside the model."""
