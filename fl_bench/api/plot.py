"""Curves of a study for notebooks."""

from io import BytesIO
from math import ceil

from matplotlib.figure import Figure

from fl_bench.build import nearest
from fl_bench.errors import ConfigError
from fl_bench.studies.plots import BANDS, curves, legend
from fl_bench.studies.study import Study
from fl_bench.studies.values import metric_named

COSTS = ("round", "steps", "bytes", "virtual_seconds", "wall_seconds")
PANEL = (4.0, 3.0)  # inches
WIDE = 3  # panels beside each other


class Plot(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.savefig(stream, format="png", dpi=100)
        return stream.getvalue()


def plot(study: Study, metric: str | None, over: str) -> Figure:
    """See `Study.plot`. Raises ConfigError for an unknown metric or axis."""
    known = [name for name in COSTS if study.rounds[name].notna().all()]  # older runs did not count steps
    if over not in known:
        raise ConfigError(f"over={over}: {nearest(over, known)}")
    metric = metric_named(study, metric)
    arms, settings = (study.runs[name].unique().tolist() for name in ("arm", "setting"))
    columns = min(WIDE, len(settings))
    rows = ceil(len(settings) / columns)
    figure = Plot(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    rounds = study.rounds.merge(study.runs[["arm", "setting"]], left_on="run", right_index=True)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, setting in zip(panels, settings, strict=False):
        curves(axes, rounds[rounds["setting"] == setting], metric, over, over, arms)
        axes.set_title(setting, fontsize="medium", parse_math=False)
        axes.grid(alpha=0.3)
    for axes in panels[len(settings) :]:
        axes.remove()
    legend(figure, arms, BANDS)
    return figure
