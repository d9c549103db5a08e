"""Numbers of foreign files as labels of a task."""

import math

import pytest

from msa.annotations.labels import NEAR
from msa.cache.exchange._corpus import _label
from msa.types import Task

CLASSES = Task(classes=("sad", "calm", "glad"))
VALUES = Task(low=-3.0, high=3.0)


def test_a_class_is_given_by_its_number_and_nan_is_no_label():
    assert [_label(CLASSES, float(n)) for n in range(3)] == ["sad", "calm", "glad"]
    assert _label(CLASSES, math.nan) is None
    assert _label(VALUES, math.nan) is None


@pytest.mark.parametrize("number", [-1.0, 3.0, 0.5, math.inf])
def test_a_number_of_no_class_is_refused(number):
    with pytest.raises(ValueError, match="is the number of none of 3 classes"):
        _label(CLASSES, number)


@pytest.mark.parametrize("value", [-3.0 - NEAR, -3.0, 0.0, 3.0, 3.0 + NEAR])
def test_a_value_may_lie_beside_its_range_by_a_rounding(value):
    assert _label(VALUES, value) == value


@pytest.mark.parametrize("value", [-3.0 - 2 * NEAR, 3.0 + 2 * NEAR, math.inf, -math.inf])
def test_a_value_outside_its_range_is_refused_with_the_range(value):
    with pytest.raises(ValueError, match="is not in the range from -3 to 3"):
        _label(VALUES, value)
