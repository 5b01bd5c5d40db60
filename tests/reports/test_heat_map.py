import numpy as np

from autotune.reports.heat_map import IDLE, cell_states, draw_heat_map, short_block, strip_rows
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory, Relation, Site
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import StudyRecord

STAGE = Inventory(
    denoiser_class="Net",
    sites=(
        Site(name="down.0", block="down_blocks.0", component="stage", macs=10),
        Site(name="down.0.attn", block="down_blocks.0", component="attn", macs=4, parent=0, relation=Relation.INSIDE),
    ),
    total_macs=12,
)


def test_a_site_inside_a_reused_stage_is_shown_as_idle_not_as_reuse() -> None:
    plan = CachePlan.from_array(np.array([[0, 0], [1, 1], [0, 1]]))
    states = cell_states(Schedule(n_steps=3, cache=plan), STAGE)
    assert states is not None
    assert states.tolist() == [[0, 0], [1, IDLE], [0, 1]]


def test_a_schedule_without_cache_has_no_cells_and_still_draws() -> None:
    schedule = Schedule(n_steps=4)
    assert cell_states(schedule, STAGE) is None
    assert len(draw_heat_map(schedule, STAGE, 4, narrow=False).axes) == 1


def test_strip_has_the_columns_of_the_schedule(record: StudyRecord) -> None:
    schedule = next(c.schedule for c in record.candidates if c.schedule.guidance is not None)
    assert [row.name for row in strip_rows(schedule)] == ["timestep", "order", "guidance"]
    assert strip_rows(Schedule(n_steps=3)) == ()


def test_strip_shows_where_guidance_is_dropped() -> None:
    actions = (GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL)
    (row,) = strip_rows(Schedule(n_steps=3, guidance=actions))
    assert len(set(row.colours)) == 3


def test_block_names_lose_the_words_that_all_have() -> None:
    assert short_block("single_transformer_blocks.3") == "single 3"
    assert short_block("transformer_blocks.0") == "block 0"
    assert short_block("down_blocks.1") == "down 1"
    assert short_block("mid_block") == "mid"
    assert short_block("blocks") == "blocks"


def test_map_rows_are_the_sites_and_columns_the_network_calls(record: StudyRecord) -> None:
    candidate = next(c for c in record.candidates if c.schedule.cache is not None)
    assert candidate.schedule.cache is not None
    axes = draw_heat_map(candidate.schedule, record.inventory, 20, narrow=False).axes[1]
    assert axes.get_xlim() == (0, candidate.schedule.cache.n_calls)
    assert axes.get_ylim() == (len(record.inventory), 0)
    assert len(axes.get_yticks()) == len(record.inventory)
