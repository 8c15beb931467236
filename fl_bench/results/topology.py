"""Figures of who exchanged models with whom, drawn from a run's topology.csv."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

RADIUS = {"cloud": 0.0, "edge": 0.5, "client": 1.0}  # of the circles on which they stand
MOST_NAMES = 60  # above this, names would lie on each other


def graph(links: pd.DataFrame, labels: pd.Series, axes: Axes) -> None:
    """Draw nodes on circles, clients with the colour of a label, and links as wide as they weigh.

    Args:
        links: the columns of topology.csv.
        labels: of each client that has samples the label of which it has most, by its number.
        axes: to draw on.
    """
    nodes = _placed(links)
    ends = [nodes.loc[links[end], ["x", "y"]].to_numpy() for end in ("one", "other")]
    widths = 0.3 + 2.5 * links["weight"] / links["weight"].max()
    axes.add_collection(LineCollection(list(np.stack(ends, axis=1)), linewidths=widths, colors="0.6", zorder=1))
    for kind, marker in (("cloud", "s"), ("edge", "D")):
        these = nodes[nodes["kind"] == kind]
        axes.scatter(these["x"], these["y"], s=130, marker=marker, color="black", zorder=2)
    clients = nodes[nodes["kind"] == "client"]
    most = clients["number"].map(labels)
    for index, label in enumerate(sorted(most.dropna().unique())):
        these = clients[most == label]
        colour = colormaps["tab20"](index % 20)
        axes.scatter(these["x"], these["y"], s=90, color=colour, label=label, zorder=2)
    bare = clients[most.isna()]
    axes.scatter(bare["x"], bare["y"], s=90, color="white", edgecolors="black", zorder=2)
    if len(nodes) <= MOST_NAMES:
        for name, x, y in zip(nodes.index, nodes["x"], nodes["y"], strict=True):
            axes.annotate(name.removeprefix("client "), (x, y), (6, 6), textcoords="offset points", fontsize="small")
    axes.figure.legend(title="most samples of", fontsize="x-small", loc="outside right upper")
    axes.set_aspect("equal")
    axes.set_axis_off()


def _placed(links: pd.DataFrame) -> pd.DataFrame:
    """The nodes by name, with their kind, number and place: clients beside those of the same edge, and edges there."""
    names = pd.Index(pd.unique(links[["one", "other"]].melt()["value"]))
    parts = names.str.partition(" ")
    nodes = pd.DataFrame({"kind": parts.get_level_values(0), "number": parts.get_level_values(2)}, names)
    above = links[links["other"].str.startswith("edge")].set_index("one")["other"]
    nodes = nodes.assign(number=pd.to_numeric(nodes["number"]), edge=above).sort_values(["kind", "edge", "number"])
    clients = nodes["kind"] == "client"
    nodes.loc[clients, "angle"] = 2 * np.pi * np.arange(clients.sum()) / clients.sum()
    nodes["angle"] = nodes["angle"].fillna(nodes.groupby("edge")["angle"].mean()).fillna(0)
    radii = nodes["kind"].map(RADIUS)
    return nodes.assign(x=radii * np.sin(nodes["angle"]), y=radii * np.cos(nodes["angle"]))
