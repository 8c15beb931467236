"""The chain of a ledger as a figure: its blocks, and who has signed in which."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from fl_bench.ledger import chain
from fl_bench.ledger.chain import Block
from fl_bench.results.figures import MANY_CLIENTS, finish, save

MANY_BLOCKS = 10  # above this, their digests would not be read
DIGITS = 8  # of a digest
STATUSES = {  # as clients.csv has them: their colours, and what they mean here
    "ok": ("tab:green", "signed an update"),
    "withheld": ("tab:olive", "signed that it sends none"),
    "empty": ("lightgrey", "has no examples"),
    "dropped": ("tab:orange", "dropped"),
    "failed": ("tab:red", "failed"),
}


def chain_of_blocks(run: Path) -> None:
    """Draw the chain of the run in a folder into its folder figures/, and below each block who has signed in it."""
    folder = run / chain.FOLDER
    blocks = [chain.read(folder, round) for round in chain.rounds(folder)]
    clients = sum(len(signer["clients"]) for signer in blocks[0].header["signers"].values())
    said = np.full((clients, len(blocks)), -1)  # by client and round the place among STATUSES
    for block in blocks[1:]:
        answers = [*(statement["body"]["answer"] for statement in block.statements), *block.header["silent"]]
        for answer in answers:
            said[answer["client"], block.round] = list(STATUSES).index(answer["status"])
    few = len(blocks) <= MANY_BLOCKS
    figure = Figure(figsize=(max(7, 1.3 * len(blocks)) if few else 10, 5.5), layout="constrained")
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(1, 2))
    _blocks(top, blocks, few)
    if clients <= MANY_CLIENTS:
        _each(bottom, said, blocks if few else [])
    else:
        _counts(bottom, said)
    there = [status for place, status in enumerate(STATUSES.values()) if place in said]
    patches = [Patch(color=colour, label=text) for colour, text in there]
    bottom.legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    save(figure, run / "figures", "ledger")


def _blocks(axes: Axes, blocks: Sequence[Block], few: bool) -> None:
    """A box a block, with an arrow to the one before, whose digest it has."""
    axes.axis("off")
    axes.set_title("each block has the digest of the block before", fontsize=9)
    axes.set_ylim(-1, 1)
    if not few:
        axes.plot(range(len(blocks)), np.zeros(len(blocks)), "s-", color="black", markersize=3)
        for block in (blocks[0], blocks[-1]):
            axes.text(block.round, 0.2, f"{block.digest[:DIGITS]}", fontsize=7, ha="center")
        return
    for block in blocks:
        x, model = block.round, block.header["model"]
        text = f"block {x}\n{block.digest[:DIGITS]}\nmodel\n{model[:DIGITS]}\n{len(block.statements)} signed"
        axes.text(x, 0, text, fontsize=7, ha="center", va="center", bbox={"boxstyle": "round", "facecolor": "white"})
        if x:
            axes.annotate("", (x - 0.64, 0), (x - 0.36, 0), arrowprops={"arrowstyle": "->"})


def _each(axes: Axes, said: NDArray[np.int64], named: Sequence[Block]) -> None:
    """A cell for each client and round; in those of the blocks `named` the digest of what has come."""
    colours = ListedColormap([colour for colour, _ in STATUSES.values()])
    norm = BoundaryNorm(range(len(STATUSES) + 1), colours.N)
    places = (np.arange(count + 1) - 0.5 for count in reversed(said.shape))
    axes.pcolormesh(*places, np.ma.masked_less(said, 0), cmap=colours, norm=norm, edgecolors="white", linewidth=1)
    for block in named:
        for client, digest in block.updates.items():
            axes.text(block.round, client, digest[:DIGITS], fontsize=6, ha="center", va="center")
    axes.invert_yaxis()
    finish(axes, "round", "client")
    axes.grid(False)
    axes.locator_params(axis="y", integer=True)


def _counts(axes: Axes, said: NDArray[np.int64]) -> None:
    """How many clients were what in each round."""
    below = np.zeros(said.shape[1])
    for place, (colour, _) in enumerate(STATUSES.values()):
        counts = (said == place).sum(axis=0)
        axes.bar(range(said.shape[1]), counts, 0.9, below, color=colour)
        below += counts
    finish(axes, "round", "clients")
    axes.locator_params(axis="y", integer=True)
