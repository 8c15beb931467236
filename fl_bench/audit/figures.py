"""What an audit has found, as figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fl_bench.audit.areas import Floats
from fl_bench.audit.inversion import Images, Match
from fl_bench.audit.leakage import Leakage
from fl_bench.results.figures import finish, save

GAP = 2  # pixels between images


def inversion(folder: Path, matches: Mapping[str, Match]) -> None:
    """A row of originals and a row of what was made of each, for every way in which images were made."""
    figure = Figure(figsize=(8, 2 * len(matches)), layout="constrained")
    for axes, (name, match) in zip(figure.subplots(len(matches), squeeze=False)[:, 0], matches.items(), strict=True):
        axes.imshow(np.concatenate([_row(match.originals), _row(match.made)]), cmap="gray", vmin=0, vmax=1)
        axes.axis("off")
        axes.set_title(f"original, {name}: {match.psnr.mean():.1f} dB, SSIM {match.ssim.mean():.2f}", fontsize=9)
    save(figure, folder, "inversion")


def _row(images: Images) -> Images:
    """Images side by side [height, width, channels]."""
    framed = np.pad(images, [(0, 0), (0, 0), (GAP, GAP), (GAP, GAP)], constant_values=1)
    return np.concatenate(list(framed), axis=2).transpose(1, 2, 0)


def labels(folder: Path, classes: Sequence[str], true: Floats, inferred: Floats) -> None:
    """True and inferred shares, side by side."""
    figure = Figure(figsize=(max(6.0, 0.6 * len(classes)), 3.5), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(classes))
    axes.bar(places - 0.2, true, 0.4, label="true")
    axes.bar(places + 0.2, inferred, 0.4, label="inferred")
    axes.set_xticks(places, classes)
    finish(axes, "label", "share of the examples")
    axes.legend()
    save(figure, folder, "labels")


def membership(folder: Path, losses: Mapping[str, tuple[Floats, Floats]]) -> None:
    """The share of members found against that of others taken for members, from one in a thousand on.

    `losses` are those of members and of others, by how they were told apart: whose are the lowest are found first.
    """
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for how, parts in losses.items():
        thresholds = np.sort(np.concatenate(parts))
        found, mistaken = (np.searchsorted(np.sort(part), thresholds, side="right") / len(part) for part in parts)
        axes.step(mistaken, found, where="post", label=how)
    chance = np.geomspace(1e-3, 1)
    axes.plot(chance, chance, "--", color="grey", label="chance")
    axes.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    finish(axes, "share of others taken for members", "share of members found")
    axes.legend()
    save(figure, folder, "membership")


def leakage(folder: Path, found: Leakage, names: Sequence[str]) -> None:
    """Cosines of gradients with the known one of each class: of rows of that class, and of all others."""
    figure = Figure(figsize=(max(6.0, 0.9 * len(found.classes)), 4), layout="constrained")
    axes = figure.subplots()
    for side, colour, label in ((True, "C1", "rows of the class"), (False, "C0", "other rows")):
        parts = [column[(found.labels == k) == side] for column, k in zip(found.cosines.T, found.classes, strict=True)]
        places = np.arange(len(parts)) + (0.2 if side else -0.2)
        box = {"facecolor": colour, "alpha": 0.6}
        axes.boxplot(parts, positions=places, widths=0.35, sym="", patch_artist=True, boxprops=box, label=label)
    axes.set_xticks(np.arange(len(found.classes)), [names[k] for k in found.classes])
    finish(axes, "label", "cosine with the known gradient of the label")
    axes.set_title(f"area under the curve: norm {found.norm[0]:.2f}, cosine {found.cosine[0]:.2f}; a guess 0.5")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, folder, "leakage")
