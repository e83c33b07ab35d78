"""Names of the catalogue: what they mean, how they are spelled, which are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.catalogue import APPLICATIONS, CatalogueName, is_name, options_of, parse
from app.domain.errors import UserError


def test_a_name_alone_is_the_application_as_keras_has_it() -> None:
    name = parse("keras:MobileNetV2")
    assert (name.application.name, name.include_top, name.input_size, name.alpha) == ("MobileNetV2", True, 224, 1.0)
    assert (name.weights, name.pooling, name.minimalistic) == ("imagenet", None, False)
    assert str(name) == "keras:MobileNetV2"


def test_options_are_read() -> None:
    name = parse("keras:MobileNet?alpha=0.25&input_size=160&include_top=false&pooling=avg&weights=random")
    assert (name.alpha, name.input_size, name.include_top) == (0.25, 160, False)
    assert (name.pooling, name.weights) == ("avg", "random")
    assert parse("keras:MobileNetV3Small?minimalistic=true").minimalistic is True
    assert parse("keras:Xception?include_top=false&input_size=any").input_size is None


@pytest.mark.parametrize(
    ("spelled", "canonical"),
    [
        ("keras:MobileNet?input_size=224&alpha=1.0&include_top=true&weights=imagenet", "keras:MobileNet"),
        ("keras:MobileNet?include_top=false&alpha=.50", "keras:MobileNet?alpha=0.5&include_top=false"),
        ("keras:VGG16?input_size=any&include_top=false", "keras:VGG16?include_top=false&input_size=any"),
    ],
)
def test_two_spellings_of_one_model_are_one_name(spelled: str, canonical: str) -> None:
    assert str(parse(spelled)) == canonical
    assert parse(canonical) == parse(spelled)


@given(st.sampled_from(sorted(APPLICATIONS)), st.data())
def test_what_is_written_is_read_back(application: str, data: st.DataObject) -> None:
    found = APPLICATIONS[application]
    name = CatalogueName(
        application=found,
        include_top=False,
        input_size=data.draw(st.integers(found.min_input_size, 2048)),
        alpha=data.draw(st.sampled_from(found.alphas)),
        pooling=data.draw(st.sampled_from([None, "avg", "max"])),
        weights=data.draw(st.sampled_from(["imagenet", "random"])),
    )
    assert parse(str(name)) == name


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("keras:mobilnet", "unknown_application", "Nearest: 'MobileNet'"),
        ("keras:MobileNetV4", "unknown_application", "'MobileNetV2'"),
        ("keras:", "unknown_application", "There are: ConvNeXtBase"),
        ("keras:ResNet50?alpha=0.5", "unknown_option", "option 'alpha' of 'ResNet50'"),
        ("keras:MobileNet?inputsize=160", "unknown_option", "Nearest: 'input_size'"),
        ("keras:MobileNet?", "unknown_option", "There are: include_top"),
        ("keras:MobileNet?alpha", "wrong_option", "name=value"),
        ("keras:MobileNet?alpha=1&alpha=0.5", "wrong_option", "stands once"),
        ("keras:MobileNet?alpha=0.3", "wrong_option", "0.25, 0.5, 0.75, 1; received '0.3'"),
        ("keras:MobileNet?alpha=nan", "wrong_option", "received 'nan'"),
        ("keras:MobileNet?include_top=no", "wrong_option", "true, false; received 'no'"),
        ("keras:MobileNet?input_size=31&include_top=false", "wrong_option", "from 32 to 2048"),
        ("keras:Xception?input_size=70&include_top=false", "wrong_option", "from 71 to 2048"),
        ("keras:NASNetMobile?include_top=false&input_size=any", "wrong_option", "whole number"),
        ("keras:MobileNet?input_size=any", "wrong_option", "include_top=false"),
        ("keras:MobileNet?input_size=96", "wrong_option", "128 or 160 or 192 or 224; received 96"),
        ("keras:ResNet50?input_size=160", "wrong_option", "input_size=224; received 160"),
        ("keras:MobileNet?pooling=avg", "wrong_option", "include_top=false"),
        ("keras:MobileNet?pooling=sum&include_top=false", "wrong_option", "avg, max"),
        ("keras:MobileNet?weights=mine.h5", "wrong_option", "imagenet, random"),
        ("keras:MobileNetV3Large?minimalistic=true&alpha=0.75", "wrong_option", "alpha=1 only"),
    ],
)
def test_what_is_wrong_with_a_name_is_said_with_what_there_is(name: str, code: str, says: str) -> None:
    assert is_name(name)
    with pytest.raises(UserError) as caught:
        parse(name)
    assert (caught.value.work_code, caught.value.param) == (code, "model")
    assert says in caught.value.message


def test_sizes_without_ready_weights_for_the_top_are_fine_without_it_or_with_new_weights() -> None:
    assert parse("keras:MobileNet?input_size=96&include_top=false").input_size == 96
    assert parse("keras:ResNet50?input_size=160&weights=random").input_size == 160
    assert parse("keras:MobileNetV3Small?input_size=160").input_size == 160


def test_the_options_of_an_application_say_their_default_first() -> None:
    options = options_of(APPLICATIONS["MobileNet"])
    assert options["alpha"][0] == "1"
    assert options["input_size"] == ["224", "32 to 2048", "any"]
    assert "minimalistic" not in options
    assert "alpha" not in options_of(APPLICATIONS["VGG16"])
