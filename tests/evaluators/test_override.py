"""Instance attributes that are set on others' objects and taken back."""

import pytest
from torch import nn

from autotune.evaluators.override import Overrides


def test_undo_deletes_what_came_from_the_class_and_restores_what_was_on_the_instance() -> None:
    plain, hooked = nn.Linear(2, 2), nn.Linear(2, 2)
    hooked.forward = earlier = lambda x: x  # type: ignore[method-assign]
    keys = sorted(vars(plain))
    overrides = Overrides()
    for module in (plain, hooked):
        overrides.set(module, "forward", lambda x: None)
    overrides.undo()
    assert sorted(vars(plain)) == keys
    assert vars(hooked)["forward"] is earlier


def test_attribute_that_someone_else_replaced_since_is_left_with_a_warning() -> None:
    module, overrides = nn.Linear(2, 2), Overrides()
    overrides.set(module, "forward", lambda x: 1)
    module.forward = later = lambda x: 2  # type: ignore[method-assign,assignment]
    with pytest.warns(UserWarning, match=r"Linear\.forward was replaced after autotune had set it"):
        overrides.undo()
    assert vars(module)["forward"] is later


def test_two_overrides_of_one_attribute_unwind_in_reverse() -> None:
    module, overrides = nn.Linear(2, 2), Overrides()
    overrides.set(module, "forward", lambda x: 1)
    overrides.set(module, "forward", lambda x: 2)
    overrides.undo()
    assert "forward" not in vars(module)
