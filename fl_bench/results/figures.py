"""Figures that any run has, drawn from its own CSV files."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl_bench.metrics import WRITTEN

MANY_CLIENTS = 50  # above this, a line or bar for each would be a blur


def draw(folder: Path) -> None:
    """Draw the curves and the partition of the run in `folder` into its folder figures/."""
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    metrics = pd.read_csv(folder / "metrics.csv").set_index("round")
    _curves(metrics, figures / "curves.png")
    _participation(metrics, figures / "participation.png")
    if "train_loss" in metrics:  # somebody has trained
        _client_losses(pd.read_csv(folder / "clients.csv"), figures / "client_losses.png")
    _partition(pd.read_csv(folder / "partition.csv"), figures / "partition.png")


def _curves(metrics: pd.DataFrame, file: Path) -> None:
    """One panel a metric: its training, test and client values as lines, most of the clients as a band."""
    columns = [c for c in map(str, metrics) if c.startswith(("train_", "test_", "client_"))]
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
    figure.savefig(file, dpi=120)


def _metric(column: str, plain: list[str]) -> str:
    """train_loss, test_loss, client_loss_std -> loss, as it is one of the `plain` metrics."""
    rest = column.partition("_")[2]
    return next((name for name in plain if rest == name or rest.startswith(f"{name}_")), rest)


def _participation(metrics: pd.DataFrame, file: Path) -> None:
    """How many of the clients that were asked answered, dropped out and so on; drawn where not all answered."""
    counts = metrics.filter(regex="^clients_").dropna().rename(columns=lambda name: name.removeprefix("clients_"))
    sampled = counts.pop("sampled")
    counts["empty"] = sampled - counts.sum(axis=1)
    parts = counts.loc[:, counts.any()]
    if set(parts.columns) <= {"ok"}:
        return
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.stackplot(parts.index, parts.T.to_numpy(), labels=list(parts.columns), alpha=0.8)
    finish(axes, "round", "clients")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file, dpi=120)


def _client_losses(clients: pd.DataFrame, file: Path) -> None:
    """Each client's training loss over the rounds; of many clients their median and the range of most."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    table = clients.dropna(subset="train_loss").pivot(index="round", columns="client", values="train_loss")
    if table.shape[1] <= MANY_CLIENTS:
        for client in table:
            table[client].dropna().plot(ax=axes, label=f"client {client}", linewidth=1, alpha=0.8)
        axes.legend(fontsize="x-small", ncols=2 + table.shape[1] // 20)
    else:
        low, middle, high = (table.quantile(q, axis=1) for q in (0.1, 0.5, 0.9))
        axes.fill_between(table.index, low, high, alpha=0.3, label="10 % to 90 % of the clients")
        middle.plot(ax=axes, label="median client")
        axes.legend()
    finish(axes, "round", "training loss of a client")
    figure.savefig(file, dpi=120)


def _partition(partition: pd.DataFrame, file: Path) -> None:
    """Who holds what: samples by client and label."""
    table = partition.pivot(index="client", columns="label", values="samples")
    labels = list(partition["label"].drop_duplicates())
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    if len(table) <= MANY_CLIENTS:
        table[labels].plot.bar(ax=axes, stacked=True, width=0.85, colormap="tab20")
        axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1), title="label")
        finish(axes, "client", "samples")
    else:
        sizes = table.sum(axis=1)
        axes.hist(sizes, bins=min(50, int(sizes.max() - sizes.min()) + 1))
        finish(axes, "samples of a client", "clients")
        axes.set_title(f"{len(sizes)} clients, on average {(table > 0).sum(axis=1).mean():.1f} labels each")
    figure.savefig(file, dpi=120)


def finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
