"""What a curious server, or a curious client, learns of the clients' examples from what it sees of a run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn import functional

from fl_bench import rng
from fl_bench.audit import figures, inversion, labels, leakage
from fl_bench.audit.areas import Floats
from fl_bench.audit.inversion import Images
from fl_bench.audit.membership import membership, ratios
from fl_bench.build import nearest
from fl_bench.data.arrays import Columns
from fl_bench.data.split import NAME as SPLIT
from fl_bench.errors import ConfigError, no_exit, note, plain
from fl_bench.federation.exchange import Status
from fl_bench.federation.local import Trainer
from fl_bench.models.opaque import Opaque
from fl_bench.runs import canaries
from fl_bench.runs.evaluate import model_after
from fl_bench.runs.evidence import Evidence, Seen, scores, seen_by
from fl_bench.runs.received import Received, received
from fl_bench.runs.replay import rounds_after
from fl_bench.storage import files, run_json
from fl_bench.storage.tables import rows_of
from fl_bench.strategies.layers import layers
from fl_bench.strategies.server import own_part
from fl_bench.tasks.base import Classifier, ImageClassifier


@dataclass(frozen=True)
class Wanted:
    """What is to be audited."""

    cfg: DictConfig  # of the run, on the inline engine
    folder: Path  # of the run
    out: Path  # the folder that is written
    round: int
    client: int | None  # whose update; None: that of the first honest one that trains, or of all where masks hide one
    by: Literal["server", "client"]  # who is curious
    what: Sequence[str]  # of ANALYSES; none: all that can be made
    images: int  # to reconstruct at most
    iterations: int  # of the search for them
    canaries: int  # to plant; 0: none
    shadows: Sequence[Path]  # the folders of shadow runs


class Finding(NamedTuple):
    """A row of audit.csv; `low` and `high` are the ends of an interval."""

    what: str
    number: str
    value: float
    low: float | None = None
    high: float | None = None


@no_exit()
def audit(wanted: Wanted) -> int:
    """Print what is learned from a run, and write it and its figures; nothing else in its folder is changed."""
    for what in wanted.what:
        if what not in ANALYSES:
            raise ConfigError(f"--what {','.join(wanted.what)}: {nearest(what, ANALYSES)}")
    costly = {"canaries": bool(wanted.canaries), "membership": bool(wanted.shadows)}
    asked = wanted.what or [what for what, said in costly.items() if said]  # must not be left out where it does not fit
    if "canaries" in asked:
        canaries.plan(wanted.cfg, wanted.canaries)
    with rounds_after(wanted.cfg, wanted.folder, wanted.round - 1) as (rounds, vector):
        trainer = rounds.trainer
        if not isinstance(trainer.task, Classifier):
            name = type(trainer.task).__name__
            raise ConfigError(f"task: {name} is no classifier, and only the runs of those can be audited")
        if isinstance(trainer.flat.model, Opaque):
            raise ConfigError("model=trees: an audit looks at updates of numbers, and trees are none")
        analyses: Mapping[str, Callable[[Any, Wanted], list[Finding]]] = OF_UPDATES
        evidence: Any
        seen: Seen | Received
        if own_part(rounds.strategy).vertical:
            evidence = seen = received(rounds, vector, wanted.round, wanted.client)
            analyses = OF_GRADIENTS
        else:
            seen = seen_by(wanted.by, rounds, vector, wanted.round, wanted.client)
            evidence = Evidence(trainer, wanted.round, seen)
        print(plain(f"round {wanted.round}: {seen.words}"))
        wanted.out.mkdir(exist_ok=True)
        for file in wanted.out.iterdir():  # of an earlier audit, whose numbers would stand beside ours
            if file.stem in ("audit", *ANALYSES):
                file.unlink()
        found: list[Finding] = []
        usual = [name for name in analyses if name != "canaries"]
        for what in dict.fromkeys([*(wanted.what or usual), *asked]):
            try:
                if what not in analyses:
                    raise ConfigError(f"{what}: is not of this run; what is: {', '.join(analyses)}")
                found += analyses[what](evidence, wanted)
            except ConfigError as error:
                if what in asked:
                    raise
                note(str(error))
    if not found:
        raise ConfigError(f"{wanted.folder}: none of {', '.join(ANALYSES)} fits this run")
    whose = wanted.round, " ".join(map(str, seen.clients))
    rows = [("round", "clients", *Finding._fields), *((*whose, *finding) for finding in found)]
    files.write(wanted.out / "audit.csv", files.csv_of(rows))
    width = max(len(finding.number) for finding in found)
    for what, number, value, low, high in found:
        print(f"{what:<11} {number:<{width}} {value:.4g}{'' if low is None else f'  [{low:.4g}, {high:.4g}]'}")
    print(plain(wanted.out))
    return 0


def _inversion(evidence: Evidence, wanted: Wanted) -> list[Finding]:
    """Reconstructed images beside the originals, and beside what the server would guess without an update."""
    trainer, task = evidence.trainer, evidence.trainer.task
    if not isinstance(task, ImageClassifier):
        raise ConfigError(f"inversion: is of images, and task {type(task).__name__} has none")
    originals = (evidence.examples("x") / 255).astype(np.float32)
    count, shape = min(wanted.images, len(originals)), originals.shape[1:]
    inferred = labels.labels(evidence.bias_gradient, evidence.shares, count, len(originals))
    draw = rng.generator(trainer.seed, "audit inversion", wanted.round, evidence.seen.clients[0])
    start = draw.random((count, *shape), dtype=np.float32)
    given = torch.from_numpy(inferred).to(trainer.device)
    trainer.load(evidence.seen.received)
    model = trainer.flat.model.train()
    made: dict[str, Images] = {
        "searched": inversion.searched(task, model, evidence.gradient, given, start, wanted.iterations, _watched),
        "divided": _divided(evidence, shape, count),
        "guess": np.stack([_mean_image(trainer.data.test, label) for label in inferred]),
    }
    matches = {name: inversion.matched(originals, images) for name, images in made.items() if len(images)}
    figures.inversion(wanted.out, matches)
    return [
        Finding("inversion", f"{name}_{number}", float(getattr(match, number).mean()))
        for name, match in matches.items()
        for number in ("psnr", "ssim")
    ]


def _watched(numbers: range) -> Iterable[int]:
    """The same, with a bar on a terminal."""
    terminal = Console(stderr=True)
    return track(numbers, "searching", console=terminal, transient=True, disable=not terminal.is_terminal)


def _divided(evidence: Evidence, shape: tuple[int, ...], count: int) -> Images:
    """Images [count or fewer, *shape] from the first layer's gradient; none where that is not linear in the pixels."""
    task, model = evidence.trainer.task, evidence.trainer.flat.model
    assert isinstance(task, ImageClassifier)
    first = next(iter(layers(model)))
    module = model.get_submodule(first)
    if not isinstance(module, nn.Linear) or module.bias is None or module.in_features != prod(shape):
        return np.empty((0, *shape), np.float32)
    weights, biases = (evidence.gradient[f"{first}.{name}"].cpu().numpy() for name in ("weight", "bias"))
    pixels = inversion.divided(weights, biases, count) * task.std + task.mean
    images: Images = np.clip(pixels, 0, 1, dtype=np.float32).reshape(-1, *shape)
    return images


def _mean_image(columns: Columns, label: int) -> Images:
    """Of the rows with this label, or of all where there are none [channels, height, width]."""
    rows = np.flatnonzero(columns["y"] == label)
    images = columns["x"][rows if len(rows) else np.arange(len(columns["y"]))]
    mean: Images = images.mean(axis=0, dtype=np.float32) / np.float32(255)
    return mean


def _labels(evidence: Evidence, wanted: Wanted) -> list[Finding]:
    """The shares of the classes as the update tells them, beside the true ones and those of the server's own rows."""
    inferred, classes = evidence.shares, evidence.trainer.data.classes
    truth, guess = (
        np.bincount(column, minlength=len(classes)) / len(column)
        for column in (evidence.examples("y"), evidence.trainer.data.test["y"])
    )
    table = [("class", "true", "inferred"), *zip(classes, truth, inferred, strict=True)]
    files.write(wanted.out / "labels.csv", files.csv_of(table))
    figures.labels(wanted.out, classes, truth, inferred)
    return [
        Finding("labels", "distance", labels.total_variation(inferred, truth)),
        Finding("labels", "guess_distance", labels.total_variation(guess, truth)),
    ]


def _membership(evidence: Evidence, wanted: Wanted) -> list[Finding]:
    """Whether the run's last model tells what it was trained on from what it was not."""
    trainer, partition, folder = evidence.trainer, evidence.trainer.partition, wanted.folder
    number, vector, _ = model_after(folder, run_json.read_run(folder), None, trainer)
    heldout = trainer.drift.rows(
        np.concatenate([partition.heldout_rows(k) for k in range(len(partition.ends))]), number
    )
    trained = np.concatenate([trainer.rows(client, number) for client in sorted(_answered(folder))])
    others = len(heldout) or trainer.data.num_tests
    if min(len(trained), others) < 2:
        raise ConfigError("membership: needs two rows that somebody has trained on, and two that nobody has")
    trainer.load(vector)
    inside = _losses(trainer, trainer.data.train, trained, number)
    if len(heldout):
        outside = _losses(trainer, trainer.data.train, heldout, number)
    else:
        outside = _losses(trainer, trainer.data.test, np.arange(others))
    losses = {"loss": (inside, outside)}  # the lower, the more like a member
    if wanted.shadows:
        if not len(heldout):
            raise ConfigError("membership: shadow runs are for rows that clients hold out; raise partition.holdout")
        ratio = _ratios(evidence, wanted, np.concatenate([trained, heldout]), np.concatenate([inside, outside]), number)
        losses["shadows"] = (-ratio[: len(trained)], -ratio[len(trained) :])
    figures.membership(wanted.out, losses)
    findings: list[Finding] = []
    for how, (members, rest) in losses.items():
        found, prefix = membership(members, rest), "" if how == "loss" else f"{how}_"
        findings += [
            Finding("membership", f"{prefix}auc", *found.auc),
            Finding("membership", f"{prefix}tpr_at_fpr_0.01", *found.tpr),
            Finding("membership", f"{prefix}advantage", found.advantage),
        ]
    return findings


def _answered(folder: Path) -> set[int]:
    """The clients of a run whose updates have counted."""
    return {int(row["client"]) for row in rows_of(folder / "clients.csv") if row["status"] == Status.OK}


def _losses(trainer: Trainer, columns: Columns, rows: NDArray[np.int64], round: int | None = None) -> Floats:
    """Of the loaded model on these rows [N]."""
    found: Floats = functional.cross_entropy(*scores(trainer, columns, rows, round), reduction="none").numpy()
    return found


def _ratios(evidence: Evidence, wanted: Wanted, rows: NDArray[np.int64], losses: Floats, number: int) -> Floats:
    """How much likelier the losses of these training rows are if they were trained on, by the shadow runs [N]."""
    trainer, data = evidence.trainer, run_json.read_run(wanted.folder)["data"]["data"]
    theirs, inside = [], []
    for folder in wanted.shadows:
        record = run_json.read_run(folder)
        if record["data"]["data"] != data:
            raise ConfigError(f"membership: {folder}: has other rows than the run, as they depend on the seed")
        trainer.load(model_after(folder, record, None, trainer)[1])
        theirs.append(_losses(trainer, trainer.data.train, rows, number))
        split = pd.read_csv(folder / SPLIT)
        inside.append(np.isin(rows, split.row[(split.heldout == 0) & split.client.isin(_answered(folder))]))
    return ratios(losses, np.stack(theirs), np.stack(inside))


def _canaries(evidence: Evidence, wanted: Wanted) -> list[Finding]:
    """An epsilon that the run has at least, beside the one that it accounts for, which it has at most."""
    last = int(run_json.read_run(wanted.folder)["final"]["round"])
    found, epsilon = canaries.measured(wanted.cfg, wanted.canaries, last, wanted.out)
    return [
        Finding("canaries", "epsilon_at_least", found.epsilon),
        Finding("canaries", "epsilon_at_most", epsilon),
        Finding("canaries", "if_all_were_right", found.most),
        Finding("canaries", "right", found.right / found.guesses),
    ]


def _leakage(seen: Received, wanted: Wanted) -> list[Finding]:
    """What the gradients that a client is sent tell of the labels."""
    try:
        found = leakage.leakage(seen.gradients, seen.labels)
    except ValueError as error:
        raise ConfigError(f"leakage: {error} among the {len(seen.labels)} of the round") from error
    figures.leakage(wanted.out, found, seen.classes)
    return [
        Finding("leakage", "norm_auc", *found.norm),
        Finding("leakage", "cosine_auc", *found.cosine),
        Finding("leakage", "cosine_found", *found.found),
        Finding("leakage", "guess_found", found.guess),
    ]


OF_UPDATES: Mapping[str, Callable[[Evidence, Wanted], list[Finding]]] = {
    "inversion": _inversion,
    "labels": _labels,
    "membership": _membership,
    "canaries": _canaries,
}
OF_GRADIENTS: Mapping[str, Callable[[Received, Wanted], list[Finding]]] = {"leakage": _leakage}
ANALYSES = (*OF_UPDATES, *OF_GRADIENTS)
