from autotune.spaces.worst_prompts import worst_first


def test_the_prompt_with_the_largest_error_of_any_schedule_comes_first() -> None:
    assert worst_first([[0.1, 0.3, 0.1, 0.2], [0.2, 0.1, 0.5, 0.9]]) == [3, 2, 1, 0]


def test_prompts_that_a_schedule_lacks_are_left_out() -> None:
    assert worst_first([[0.1, 0.3, 9.0], [0.2, 0.1]]) == [1, 0]
    assert worst_first([]) == []
