"""The rough count of multiplications."""

from app.domain.cost import multiply_adds


def test_a_weight_counts_once_for_each_position() -> None:
    assert multiply_adds(100, [None, 10]) == 100
    assert multiply_adds(100, [None, 7, 5, 10]) == 3_500


def test_a_side_that_is_not_known_is_as_short_as_at_the_top_of_a_network_for_the_pictures_given() -> None:
    assert multiply_adds(100, [None, None, None, 10], (160, 96, 3)) == 100 * 5 * 3
    assert multiply_adds(100, [None, 7, None, 10], (160, 96, 3)) == 100 * 7 * 3
    assert multiply_adds(100, [None, None, None, 10], (20, 20, 3)) == 100


def test_without_a_shape_to_go_by_it_counts_once() -> None:
    assert multiply_adds(100, [None, None, 10]) == 100
    assert multiply_adds(100, [None, None, 10], (3,)) == 100
