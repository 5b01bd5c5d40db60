"""Canonical form, liveness and cost of cache plans, against a symbolic network that is executed naively."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import (
    CachePlan,
    call_macs,
    canonical_plan,
    cell_use,
    needed_sites,
    plan_macs,
    stored_sites,
)
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory, Relation, Site


def site(name: str, parent: int | None = None, relation: Relation | None = None, macs: int = 1) -> Site:
    return Site(name=name, block="b", component="c", macs=macs, parent=parent, relation=relation)


FLUX_SINGLE = Inventory(
    denoiser_class="X",
    sites=(site("attn", 2, Relation.FEEDS, 10), site("proj_mlp", 2, Relation.FEEDS, 20), site("proj_out", macs=40)),
    total_macs=100,
)
STAGE = Inventory(
    denoiser_class="X",
    sites=(site("stage", macs=50), site("resnet", 0, Relation.INSIDE, 30), site("ff", 0, Relation.INSIDE, 15)),
    total_macs=100,
)


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    """Chains of FEEDS and nested INSIDE sites; nothing is inside a site that feeds another, as in real denoisers."""
    sites: list[Site] = []
    for i in range(draw(st.integers(1, 6))):
        parent = draw(st.none() | st.integers(0, i - 1)) if i else None
        relation = None
        if parent is not None:
            relation = draw(st.sampled_from(Relation))
            if sites[parent].relation is Relation.FEEDS:
                relation = Relation.FEEDS
        sites.append(site(f"s{i}", parent, relation, macs=draw(st.integers(1, 99))))
    return Inventory(denoiser_class="X", sites=tuple(sites), total_macs=10_000)


@st.composite
def plans(draw: st.DrawFn) -> tuple[Inventory, CachePlan]:
    inventory = draw(inventories())
    n_calls = draw(st.integers(1, 6))
    actions = draw(st.binary(min_size=n_calls * len(inventory), max_size=n_calls * len(inventory)))
    return inventory, CachePlan(n_calls, len(inventory), bytes(b % len(CacheAction) for b in actions))


def execute(plan: CachePlan, inventory: Inventory) -> list[tuple[Any, ...]]:
    """Symbolic output of each call: every recomputed value is a new symbol over the values that it was made from."""
    children = [[j for j, s in enumerate(inventory.sites) if s.parent == i] for i in range(len(inventory))]
    stored: dict[int, list[Any]] = {i: [] for i in range(len(inventory))}

    def value(i: int, row: int) -> Any:
        feeding = [value(j, row) for j in children[i] if inventory.sites[j].relation is Relation.FEEDS]
        action = CacheAction(plan.table[row, i])
        if row and action is not CacheAction.RECOMPUTE:
            order = min(action.order, len(stored[i]) - 1)
            kind = action.at_order(order)
            return stored[i][-1] if order == 0 else (kind, *stored[i][: -order - 2 : -1])
        inside = [value(j, row) for j in children[i] if inventory.sites[j].relation is Relation.INSIDE]
        stored[i].append((i, row, tuple(feeding), tuple(inside)))
        return stored[i][-1]

    roots = [i for i, s in enumerate(inventory.sites) if s.parent is None]
    return [tuple(value(i, row) for i in roots) for row in range(plan.n_calls)]


@given(plans())
def test_canonical_plan_computes_the_same(case: tuple[Inventory, CachePlan]) -> None:
    inventory, plan = case
    canonical = canonical_plan(plan, inventory)
    plain = CachePlan.from_array(np.zeros(plan.table.shape))
    assert execute(canonical or plain, inventory) == execute(plan, inventory)


@given(plans())
def test_no_gene_of_a_canonical_plan_is_dead(case: tuple[Inventory, CachePlan]) -> None:
    inventory, plan = case
    canonical = canonical_plan(plan, inventory)
    if canonical is None:
        return
    assert canonical_plan(canonical, inventory) == canonical
    for row, i in np.argwhere(canonical.table == CacheAction.RECOMPUTE):
        if row == 0:
            continue
        table = canonical.table.copy()
        table[row, i] = CacheAction.REUSE
        assert execute(CachePlan.from_array(table), inventory) != execute(canonical, inventory)


@given(plans(), st.data())
def test_plans_that_compute_the_same_have_one_canonical_form(
    case: tuple[Inventory, CachePlan], data: st.DataObject
) -> None:
    inventory, plan = case
    table = plan.table.copy()
    row, i = data.draw(st.integers(0, plan.n_calls - 1)), data.draw(st.integers(0, plan.n_sites - 1))
    table[row, i] = data.draw(st.sampled_from(CacheAction))
    other = CachePlan.from_array(table)
    same = execute(plan, inventory) == execute(other, inventory)
    assert same == (canonical_plan(plan, inventory) == canonical_plan(other, inventory))


@given(plans())
def test_dead_genes_cost_nothing(case: tuple[Inventory, CachePlan]) -> None:
    inventory, plan = case
    assert plan_macs(canonical_plan(plan, inventory), inventory, plan.n_calls) == plan_macs(
        plan, inventory, plan.n_calls
    )


def cell_use_by_loops(plan: CachePlan, inventory: Inventory) -> dict[str, np.ndarray]:
    """The rules of `CellUse` written out, site by site from parents to children and call by call from the last."""

    def depth(i: int) -> int:
        parent = inventory.sites[i].parent
        return 0 if parent is None else 1 + depth(parent)

    orders = [[CacheAction(action).order for action in row] for row in plan.table.tolist()]
    recompute = plan.table == CacheAction.RECOMPUTE
    recompute[0] = True
    names = {"called": bool, "needed": bool, "runs": bool, "reads": bool, "order": int, "kept": int}
    use = {name: np.zeros(recompute.shape, kind) for name, kind in names.items()}
    for i in sorted(range(len(inventory)), key=depth):
        s = inventory.sites[i]
        inside = s.relation is Relation.INSIDE
        use["needed"][:, i] = True if s.parent is None else use["runs"][:, s.parent]
        use["called"][:, i] = True if s.parent is None else use["runs" if inside else "called"][:, s.parent]
        made: list[int] = []
        read_rows: list[tuple[int, list[int]]] = []  # row of a read, rows of the values that it reads
        for t in range(plan.n_calls):
            if use["called"][t, i] and recompute[t, i]:
                made.append(t)
            elif use["called"][t, i] and use["needed"][t, i]:
                use["reads"][t, i] = True
                use["order"][t, i] = min(orders[t][i], len(made) - 1)
                read_rows.append((t, made[-use["order"][t, i] - 1 :]))
        for t in range(plan.n_calls):
            later = [sum(row <= t for row in rows) for q, rows in read_rows if q > t]
            newer = [sum(row <= t for row in made if row > rows[-1]) for q, rows in read_rows if q > t]
            use["kept"][t, i] = max((n + m for n, m in zip(later, newer, strict=True) if n), default=0)
            read_later = any(t in rows for q, rows in read_rows if q > t)
            use["runs"][t, i] = t in made and bool(use["needed"][t, i] or read_later)
    return use


@given(plans())
def test_cell_use_is_what_the_rules_say_one_cell_after_the_other(case: tuple[Inventory, CachePlan]) -> None:
    inventory, plan = case
    use = cell_use(plan, inventory)
    for name, table in cell_use_by_loops(plan, inventory).items():
        assert getattr(use, name).tolist() == table.tolist(), name


@pytest.mark.parametrize("inventory", [FLUX_SINGLE, STAGE], ids=["feeds", "inside"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
def test_cell_use_of_many_calls_is_what_the_rules_say(inventory: Inventory, share: float) -> None:
    rng = np.random.default_rng(0)
    plan = CachePlan.from_array((rng.random((300, 3)) < share) * rng.integers(1, len(CacheAction), (300, 3)))
    use = cell_use(plan, inventory)
    for name, table in cell_use_by_loops(plan, inventory).items():
        assert getattr(use, name).tolist() == table.tolist(), name


def test_leaf_that_feeds_a_reused_projection_is_dead_unless_it_is_read_later() -> None:
    plan = CachePlan.from_array([[0, 0, 0], [0, 0, 1], [1, 0, 0]])
    canonical = canonical_plan(plan, FLUX_SINGLE)
    assert canonical is not None
    assert canonical.table.tolist() == [[0, 0, 0], [0, 1, 1], [1, 0, 0]]


def test_site_inside_a_reused_stage_is_not_called() -> None:
    plan = CachePlan.from_array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    canonical = canonical_plan(plan, STAGE)
    assert canonical is not None
    assert canonical.table.tolist() == [[0, 0, 0], [1, 1, 1], [0, 1, 0]]
    assert needed_sites(plan.table, STAGE).tolist() == [[True] * 3, [True, False, False], [True] * 3]


def test_plan_that_never_reuses_what_matters_has_no_canonical_form() -> None:
    assert canonical_plan(CachePlan.from_array([[1, 1, 1], [0, 0, 0]]), FLUX_SINGLE) is None


def test_site_that_is_dead_wherever_it_is_reused_needs_no_memory() -> None:
    plan = CachePlan.from_array([[0, 0, 0], [1, 1, 1], [0, 0, 0]])
    assert stored_sites(plan, FLUX_SINGLE).tolist() == [False, False, True]


def test_macs_of_calls_count_what_runs() -> None:
    plan = CachePlan.from_array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1]])
    assert call_macs(plan, STAGE, 4).tolist() == [100, 50, 70, 55]
    assert call_macs(plan, FLUX_SINGLE, 4).tolist() == [100, 90, 80, 30]
    assert plan_macs(None, STAGE, 4) == 400


def test_plan_of_another_width_is_refused() -> None:
    with pytest.raises(ScheduleError, match=r"one column per site; got 2 columns for the 3 sites of X"):
        canonical_plan(CachePlan.from_array([[0, 0]]), STAGE)


@pytest.mark.parametrize(
    ("n_calls", "n_sites", "actions"), [(0, 1, b""), (1, 2, b"\0"), (1, 1, b"\7")], ids=["empty", "short", "unknown"]
)
def test_malformed_plans_are_refused(n_calls: int, n_sites: int, actions: bytes) -> None:
    with pytest.raises(ScheduleError):
        CachePlan(n_calls, n_sites, actions)


def test_true_means_reuse() -> None:
    assert CachePlan.from_array([[False, True]]).actions == b"\0\1"


def test_what_feeds_a_site_inside_another_is_counted_once() -> None:
    """A block whose projection is fed by an attention: 100 in the block, 70 of it in these two."""
    sites = (
        site("block", macs=100),
        site("attn", 2, Relation.FEEDS, 50),
        site("proj", 0, Relation.INSIDE, 20),
    )
    inventory = Inventory(denoiser_class="X", sites=sites, total_macs=110)
    assert inventory.tree.own_macs.tolist() == [30, 50, 20]
    table = np.zeros((3, 3))
    table[1, 0] = table[2, 2] = CacheAction.REUSE
    assert call_macs(CachePlan.from_array(table), inventory, 3).tolist() == [110, 10, 40]
