"""One schedule, call by call: noise levels, the strip of solver and guidance, the map of the cache, on one axis."""

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from autotune.reports import palette
from autotune.reports.cache_map import CELLS, cell_states, cell_style, draw_cells, map_inches
from autotune.reports.schedule_strip import draw_strip, strip_legend, strip_rows
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

TIME_INCHES = 1.05


def draw_schedule(
    schedule: Schedule, inventory: Inventory, n_calls: int, default_times: Sequence[float] | None, narrow: bool
) -> Figure:
    """Panels with one column per network call, left and right edges aligned.

    Args:
        schedule: what is drawn; a panel is left out where it says nothing.
        inventory: gives the cache map its rows.
        n_calls: network calls of the schedule's run.
        default_times: the timesteps of the default run, None where they are not known.
        narrow: for a phone.
    """
    strip, cells = strip_rows(schedule), cell_states(schedule, inventory)
    columns = n_calls if cells is None else len(cells)
    handles = _legend(schedule, inventory, default_times, kept=columns == len(default_times or ()))
    legend_columns = 2 if narrow else 4
    heights = {"strip": 0.25 * max(1, len(strip))}
    if schedule.time is not None or default_times:
        heights = {"time": TIME_INCHES} | heights
    if cells is not None:
        heights |= {"map": map_inches(len(inventory), narrow)}
    legend_inches = 0.24 * -(-len(handles) // legend_columns)
    figure = Figure(
        figsize=(4.2 if narrow else 8.6, sum(heights.values()) + 0.62 + legend_inches), layout="constrained"
    )
    figure.get_layout_engine().set(hspace=0.02, h_pad=0.03)  # type: ignore[union-attr,call-arg]
    all_axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=list(heights.values()))[:, 0]
    panels: dict[str, Axes] = dict(zip(heights, all_axes, strict=True))
    for name, axes in panels.items():
        axes.patch.set_gid(f"panel-{name}")
        axes.set_xticks([])
    if "time" in panels:
        _draw_times(panels["time"], schedule.time, default_times, columns)
    draw_strip(panels["strip"], strip, columns, narrow)
    if cells is not None:
        draw_cells(panels["map"], cells, inventory, narrow)
    every = max(1, -(-columns // (12 if narrow else 26)))
    ticks = range(0, columns, every)
    all_axes[-1].set_xticks([i + 0.5 for i in ticks], [str(i + 1) for i in ticks])
    all_axes[-1].set_xlabel("network call")
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns, handlelength=1.3,
                      handleheight=1.1, columnspacing=1.3, fontsize=8)  # fmt: skip
    return figure


def _draw_times(axes: Axes, times: Sequence[float] | None, default_times: Sequence[float] | None, columns: int) -> None:
    """Timestep of each call; the default run's calls are spread over the same width."""
    if default_times:
        stretch = columns / len(default_times)
        axes.plot([(i + 0.5) * stretch for i in range(len(default_times))], default_times, "o-", ms=3.4, lw=0.9,
                  color=palette.light("soft"), mfc=palette.light("paper"), mew=0.9)  # fmt: skip
    if times is not None:
        axes.plot([i + 0.5 for i in range(columns)], times, "o-", ms=4.6, lw=1.6, color=palette.light("accent"))
    axes.set_xlim(0, columns)
    top = max([*(times or ()), *(default_times or ())])
    axes.set_ylim(-0.05 * top, 1.06 * top)
    axes.set_ylabel("timestep", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(visible=True, axis="y")


def _legend(
    schedule: Schedule, inventory: Inventory, default_times: Sequence[float] | None, *, kept: bool
) -> list[Artist]:
    """Every colour that occurs; `kept` says that a schedule without times of its own has the default run's."""
    handles: list[Artist] = []
    if schedule.time is not None:
        handles.append(
            Line2D([], [], marker="o", ms=4.6, lw=1.6, color=palette.light("accent"), label="its noise levels")
        )
    if default_times:
        text = f"default run's, {len(default_times)} calls" + (", kept" if kept and schedule.time is None else "")
        handles.append(
            Line2D([], [], marker="o", ms=3.4, lw=0.9, color=palette.light("soft"), mfc=palette.light("paper"),
                   label=text)
        )  # fmt: skip
    for entry in strip_legend(schedule):
        colour = "none" if entry.colour is None else palette.light(entry.colour)
        handles.append(Patch(fc=colour, label=entry.text))
    cells = cell_states(schedule, inventory)
    if cells is not None:
        handles += [
            Patch(label=meaning, **cell_style(colour))  # type: ignore[arg-type]
            for state, (colour, meaning) in CELLS.items()
            if (cells == state).any()
        ]
    return handles
