import numpy as np

from autotune.reports.cache_map import IDLE, cell_states, short_block
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.inventory import Inventory, Relation, Site
from autotune.spaces.schedule import Schedule

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


def test_a_schedule_without_cache_has_no_cells() -> None:
    assert cell_states(Schedule(n_steps=4), STAGE) is None


def test_block_names_lose_the_words_that_all_have() -> None:
    assert short_block("single_transformer_blocks.3") == "single 3"
    assert short_block("transformer_blocks.0") == "block 0"
    assert short_block("down_blocks.1") == "down 1"
    assert short_block("mid_block") == "mid"
    assert short_block("blocks") == "blocks"
