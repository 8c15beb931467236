"""Figures that any run has, drawn from its own CSV files."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from fl_bench.errors import plain
from fl_bench.metrics import WRITTEN
from fl_bench.results.topology import graph

DPI = 120  # of the PNGs
MANY_CLIENTS = 50  # above this, a line or bar for each would be a blur
MANY_LABELS = 30  # above this, a legend has no room for them


def draw(folder: Path, num_clients: int, classes: Sequence[str]) -> None:
    """Draw the curves and the partition of the run in `folder` into its folder figures/.

    partition.csv has only the clients and labels that have samples: all clients get a place, and the labels come in the
    order of `classes`; or it has the columns that parties hold. There is none where only the sites know what clients
    hold.
    """
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    metrics = pd.read_csv(folder / "metrics.csv").set_index("round")
    _curves(metrics, figures)
    _participation(metrics, figures)
    _consensus(metrics, figures)
    if (parts := folder / "parts.csv").exists():
        _parts(pd.read_csv(parts), metrics, figures)
    if "train_loss" in metrics:  # somebody has trained
        clients = pd.read_csv(folder / "clients.csv")
        if "train_loss" in clients:  # and no masks hide how
            _client_losses(clients, figures)
    if not (partition := folder / "partition.csv").exists():
        return
    held = pd.read_csv(partition, dtype={"label": str}, keep_default_na=False)  # a class may be "NA"
    if "label" not in held:
        _columns(held, figures)
        return
    table = held.pivot(index="client", columns="label", values="samples")
    labels = [name for name in map(str, classes) if name in table]
    _partition(table.reindex(index=range(num_clients), columns=labels).fillna(0), figures)
    if (links := folder / "topology.csv").exists():
        figure = Figure(figsize=(7, 6), layout="constrained")
        graph(pd.read_csv(links), table.fillna(0).idxmax(axis=1), figure.subplots())
        save(figure, figures, "topology")


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `name`.png and `name`.pdf to a run's `folder` figures/, with the run's name in the lower right corner."""
    run = plain(Path(*folder.absolute().parts[-4:-1]))
    figure.supxlabel(run, x=0.99, ha="right", fontsize=6, color="grey")
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in a name is a dollar
    with warnings.catch_warnings(), matplotlib.rc_context({"pdf.fonttype": 42}):  # publishers refuse the default fonts
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a letter that the font lacks is drawn as a box
        place(figure, DPI)
        figure.savefig(folder / f"{name}.png", dpi=DPI)
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def place(figure: Figure, dpi: int) -> None:
    """Give everything its place in a figure of so many dots per inch, and let it stay there.

    With a layout engine, even "none", each file would take one more draw.
    """
    figure.set_dpi(dpi)
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine(None)


def _curves(metrics: pd.DataFrame, folder: Path) -> None:
    """One panel a metric: its training, test and client values as lines, most of the clients as a band."""
    prefixes = ("train_", "test_", "attack_", "validation_", "client_", "unseen_")
    columns = [column for column in map(str, metrics) if column.startswith(prefixes)]
    lines = [c for c in columns if not c.endswith(WRITTEN)]
    plain = [column.partition("_")[2] for column in lines if not column.startswith("client_")]
    names = list(dict.fromkeys(_metric(column, plain) for column in lines))
    figure = Figure(figsize=(5.5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for column in lines:
            if _metric(column, plain) == name:
                metrics[column].dropna().plot(ax=axes, label=column, marker="." if len(metrics) < 40 else None)
        deciles = [f"client_{name}_{decile}" for decile in ("worst_decile", "best_decile")]
        if set(deciles) <= set(columns):
            band = metrics[deciles].dropna()
            colour = axes.lines[-1].get_color()
            axes.fill_between(
                band.index, *band.T.to_numpy(), color=colour, alpha=0.15, label="clients, worst to best decile"
            )
        finish(axes, "round", name)
        axes.legend()
    save(figure, folder, "curves")


def _metric(column: str, plain: list[str]) -> str:
    """train_loss, test_loss, client_loss_std -> loss, as it is one of the `plain` metrics."""
    rest = column.partition("_")[2].removeprefix("attack_")
    return next((name for name in plain if rest == name or rest.startswith(f"{name}_")), rest)


def _participation(metrics: pd.DataFrame, folder: Path) -> None:
    """How many of the clients that were asked answered, dropped out and so on; drawn where not all answered."""
    counts = metrics.filter(regex="^clients_").dropna().rename(columns=lambda name: name.removeprefix("clients_"))
    sampled = counts.pop("sampled")
    counts["empty"] = sampled - counts.sum(axis=1)
    parts = counts.loc[:, counts.any()]
    if set(parts.columns) <= {"ok"}:
        return
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    edges = np.append(parts.index, parts.index[-1] + 1) - 0.5  # a round is a step from half before to half after it
    heights = parts.T.to_numpy()[:, [*range(len(parts)), -1]]
    axes.stackplot(edges, heights, labels=list(parts.columns), alpha=0.8, step="post")
    finish(axes, "round", "clients")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, folder, "participation")


def _consensus(metrics: pd.DataFrame, folder: Path) -> None:
    """How far the models of nodes without a server are apart; drawn where there are such."""
    if "consensus_distance" not in metrics:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    metrics["consensus_distance"].dropna().plot(ax=axes, marker="." if len(metrics) < 40 else None)
    axes.set_ylim(bottom=0)
    finish(axes, "round", "mean distance of a model from the mean of all")
    save(figure, folder, "consensus")


def _client_losses(clients: pd.DataFrame, folder: Path) -> None:
    """Each client's training loss over the rounds; of many clients their median and the range of most."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    table = clients.dropna(subset="train_loss").pivot(index="round", columns="client", values="train_loss")
    if table.shape[1] <= MANY_CLIENTS:
        for client in table:
            table[client].dropna().plot(ax=axes, label=f"client {client}", linewidth=1, alpha=0.8, marker=".")
        axes.legend(fontsize="x-small", ncols=2 + table.shape[1] // 20)
    else:
        low, middle, high = (table.quantile(q, axis=1) for q in (0.1, 0.5, 0.9))
        axes.fill_between(table.index, low, high, alpha=0.3, label="10 % to 90 % of the clients")
        middle.plot(ax=axes, label="median client")
        axes.legend()
    finish(axes, "round", "training loss of a client")
    save(figure, folder, "client_losses")


def _partition(table: pd.DataFrame, folder: Path) -> None:
    """Who holds what: samples by client and label."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    if len(table) <= MANY_CLIENTS:
        table.plot.bar(ax=axes, stacked=True, width=0.85, colormap="tab20", legend=False)
        if len(table.columns) <= MANY_LABELS:
            axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1), title="label")
        finish(axes, "client", "samples")
    else:
        sizes = table.sum(axis=1)
        axes.hist(sizes, bins=min(50, int(sizes.max() - sizes.min()) + 1))
        finish(axes, "samples of a client", "clients")
        axes.locator_params(axis="x", integer=True)
        axes.set_title(f"{len(sizes)} clients, on average {(table > 0).sum(axis=1).mean():.1f} labels each")
    save(figure, folder, "partition")


def _columns(held: pd.DataFrame, folder: Path) -> None:
    """Who holds which columns, and on the right how many rows, of which all parties have so many."""
    figure = Figure(figsize=(8, 1.5 + 0.4 * len(held)), layout="constrained")
    axes = figure.subplots()
    counts = held["last_column"] - held["first_column"] + 1
    axes.barh(held["client"].astype(str), counts, left=held["first_column"] - 0.5, color=["C0", "C1"])
    for place, rows in enumerate(held["rows"]):
        axes.text(1.01, place, f"{rows:,} rows", transform=axes.get_yaxis_transform(), va="center")
    axes.set_title(f"{held['aligned'].iloc[0]:,} rows in common")
    axes.invert_yaxis()
    finish(axes, "column", "client")
    save(figure, folder, "partition")


def _parts(parts: pd.DataFrame, metrics: pd.DataFrame, folder: Path) -> None:
    """Who trains which part of the model, and what a round sends beside what whole models would take."""
    figure = Figure(figsize=(11, 1.5 + 0.35 * max(7, len(parts))), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = parts["module"].astype(str) + " " + parts["kind"]
    for place, colour in (("client", "C0"), ("server", "C1")):
        there = parts["at"] == place
        left.barh(np.flatnonzero(there), parts["numbers"][there], color=colour, label=f"at the {place}")
    left.set_yticks(np.arange(len(names)), names)
    left.invert_yaxis()
    left.set_xscale("symlog")
    left.xaxis.set_major_formatter("{x:,.0f}")
    finish(left, "numbers", "module")
    left.legend()
    if "bytes_up" in metrics:  # somebody was asked
        sent = metrics[["bytes_up", "bytes_down"]].rename(columns=lambda name: name.replace("_", " "))
        sent["whole models, each way"] = metrics["clients_ok"] * parts["numbers"].sum() * np.dtype(np.float32).itemsize
        (sent.dropna() / 1e6).plot(ax=right, style=["-", "--", ":"])
        right.set_ylim(bottom=0)
    finish(right, "round", "MB")
    save(figure, folder, "parts")


def finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    if x == "round":
        axes.locator_params(axis="x", integer=True)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
