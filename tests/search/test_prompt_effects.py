import numpy as np
import pytest

from autotune.search.prompt_effects import PromptEffects

N_PROMPTS, N_SCHEDULES = 24, 40


@pytest.mark.parametrize("metric", ["deviation", "psnr"])
def test_a_two_way_layout_without_noise_is_undone_exactly(metric: str) -> None:
    rng = np.random.default_rng(1)
    levels, hardness = rng.normal(-2.0, 1.0, N_SCHEDULES), rng.normal(0.0, 0.5, N_PROMPTS)
    table = levels[:, None] + hardness
    table = np.exp(table) if metric == "deviation" else table
    effects = PromptEffects(N_PROMPTS)
    for row in table[1:]:
        effects.note({metric: row.tolist()})
    estimate = np.mean(effects.corrected(metric, table[0, :4].tolist()))
    assert estimate == pytest.approx(table[0].mean(), rel=1e-12)
    np.testing.assert_allclose(effects.typical(metric, table[:2].mean(axis=1)), table[:2], rtol=1e-12)
    assert abs(table[0, :4].mean() / table[0].mean() - 1.0) > 0.02  # uncorrected it is another value


@pytest.mark.parametrize("metric", ["deviation", "psnr"])
def test_noise_leaves_the_estimate_without_bias_and_nearer_than_the_plain_mean(metric: str) -> None:
    rng = np.random.default_rng(2)
    corrected, plain = [], []
    for _ in range(400):
        layout = rng.normal(-1.5, 0.5, N_SCHEDULES)[:, None] + rng.normal(0.0, 0.5, N_PROMPTS)
        table = layout + rng.normal(0.0, 0.1, layout.shape)
        table = np.exp(table) if metric == "deviation" else table
        effects = PromptEffects(N_PROMPTS)
        for row in table[1:]:
            effects.note({metric: row.tolist()})
        truth, scale = table[0].mean(), table[0].mean() if metric == "deviation" else 1.0
        corrected.append((np.mean(effects.corrected(metric, table[0, :4].tolist())) - truth) / scale)
        plain.append((table[0, :4].mean() - truth) / scale)
    error = np.std(corrected) / np.sqrt(len(corrected))
    assert abs(np.mean(corrected)) < 4.0 * error
    assert np.std(corrected) < 0.3 * np.std(plain)


def test_nothing_changes_before_anything_is_known_or_where_all_prompts_are() -> None:
    effects = PromptEffects(3)
    assert effects.corrected("deviation", (0.1, 0.3)) == (0.1, 0.3)
    effects.note({"deviation": (0.1, 0.2, 0.4)})
    assert effects.corrected("deviation", (0.1, 0.3, 0.2)) == (0.1, 0.3, 0.2)
    assert effects.corrected("psnr", (30.0, 20.0)) == (30.0, 20.0)


def test_a_value_that_is_not_finite_teaches_nothing() -> None:
    effects = PromptEffects(2)
    effects.note({"psnr": (float("nan"), 20.0)})
    assert effects.corrected("psnr", (30.0,)) == (30.0,)


def test_a_part_of_the_prompts_teaches_nothing_either() -> None:
    with pytest.raises(ValueError, match="each of 3 prompts; got 2"):
        PromptEffects(3).note({"psnr": (30.0, 20.0)})


def test_an_estimated_success_stays_in_0_to_1_and_has_no_bias() -> None:
    rng = np.random.default_rng(3)
    hardness = rng.random(N_PROMPTS)
    errors = []
    for _ in range(600):
        effects = PromptEffects(N_PROMPTS)
        table = (rng.random((N_SCHEDULES, N_PROMPTS)) > 0.6 * hardness).astype(float)
        for row in table[1:]:
            effects.note({"success": row.tolist()})
        corrected = effects.corrected("success", table[0, :6].tolist())
        assert len(corrected) == 6
        assert 0.0 <= min(corrected) <= max(corrected) <= 1.0
        errors.append(np.mean(corrected) - (1.0 - 0.6 * hardness.mean()))
    assert abs(np.mean(errors)) < 4.0 * np.std(errors) / np.sqrt(len(errors))
    plain = 0.6 * hardness.mean() - 0.6 * hardness[:6].mean()
    assert abs(plain) > 0.04  # what the first six prompts say uncorrected is off by that
