"""Make docs/results.md and its figures: what the papers claim, tried on the embedded tasks with three seeds.

    make results        (or .venv/bin/python scripts/make_results.py [FOLDER OF EARLIER RUNS])

The settings are those of conf/experiment. Runs are sequential sweeps on the inline engine, two at a time.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sweeps import HERE, SEEDS, markdown, plus_minus, run_all, runs

from fl_bench.results.figures import finish

CLIENT, WORST, TEST = "client_accuracy", "client_accuracy_worst_decile", "test_accuracy"
PLAIN = "client_accuracy_uniform"
ZERO = 0.0005  # what is less would be written as 0.000


TUNED = "fedavg adapt_steps=turn"  # FedAvg's model, trained further by each client for a whole turn: the bar to pass


class Claim(NamedTuple):
    paper: str
    run: str
    baseline: str
    metric: str
    by_rounds: bool = (
        False  # how many rounds fewer it needs to come to where the baseline ends, not how much better it is
    )


class Experiment(NamedTuple):
    name: str
    sweeps: tuple[str, ...]
    curve: str  # the metric of the figure
    claims: tuple[Claim, ...]
    remark: str = ""  # what a reader should know of the table


EXPERIMENTS = (
    Experiment(
        "personalised",
        (
            "strategy=fedavg evaluate.adapt_steps=0,turn",
            "strategy=fedper,fedrep,ditto",
            "strategy=apfl,perfedavg,local_only,centralized",
            "strategy=pfedme",
        ),
        CLIENT,
        (
            Claim("Arivazhagan et al. 2019: personal layers help", "fedper", TUNED, CLIENT),
            Claim("Collins et al. 2021: a shared representation helps", "fedrep", TUNED, CLIENT),
            Claim("Collins et al. 2021: more than with FedPer", "fedrep", "fedper", CLIENT),
            Claim("Li et al. 2021: Ditto is more accurate", "ditto", TUNED, CLIENT),
            Claim("Li et al. 2021: Ditto is fairer", "ditto", TUNED, WORST),
            Claim("Deng et al. 2020: a mixture helps", "apfl", TUNED, CLIENT),
            Claim("Dinh et al. 2020: personal models help", "pfedme", TUNED, CLIENT),
            Claim("Fallah et al. 2020: a model to start from helps", "perfedavg", TUNED, CLIENT),
            Claim("whoever federates should beat training alone: FedAvg fine-tuned", TUNED, "local_only", CLIENT),
            Claim("... FedPer", "fedper", "local_only", CLIENT),
            Claim("... FedRep", "fedrep", "local_only", CLIENT),
            Claim("... Ditto", "ditto", "local_only", CLIENT),
            Claim("... APFL", "apfl", "local_only", CLIENT),
            Claim("... pFedMe", "pfedme", "local_only", CLIENT),
            Claim("... Per-FedAvg", "perfedavg", "local_only", CLIENT),
        ),
        "`fedavg adapt_steps=turn` is FedAvg's model after a whole turn of each client's own training, before it is "
        "evaluated: what any personalised method must beat. Per-FedAvg takes one step there.",
    ),
    Experiment(
        "drift",
        (
            "strategy=fedavg,fedprox,fednova",
            "strategy=scaffold,feddyn,centralized",
            "strategy=fedavg,scaffold,feddyn weighting=uniform",
        ),
        TEST,
        (
            Claim("Karimireddy et al. 2020: SCAFFOLD needs fewer rounds", "scaffold", "fedavg", TEST, True),
            Claim(
                "... with plain means, as in the paper",
                "scaffold weighting=uniform",
                "fedavg weighting=uniform",
                TEST,
                True,
            ),
            Claim("Acar et al. 2021: FedDyn needs fewer rounds", "feddyn", "fedavg", TEST, True),
            Claim(
                "... with plain means, as in the paper",
                "feddyn weighting=uniform",
                "fedavg weighting=uniform",
                TEST,
                True,
            ),
            Claim("Wang et al. 2020: FedNova, where clients take unequal numbers of steps", "fednova", "fedavg", TEST),
            Claim("Li et al. 2020: FedProx is more robust", "fedprox", "fedavg", TEST),
        ),
        "`weighting=uniform`: each client counts the same, however few its examples, as in the papers of SCAFFOLD and "
        "FedDyn.",
    ),
    Experiment(
        "contrast",
        ("strategy=fedavg", "strategy=moon"),
        TEST,
        (Claim("Li et al. 2021: MOON needs fewer rounds", "moon", "fedavg", TEST, True),),
        "MOON is without the projection head that its paper puts before the last layer.",
    ),
    Experiment(
        "normalisation",
        ("strategy=fedbn", "strategy=fedavg evaluate.adapt_steps=0,turn"),
        CLIENT,
        (
            Claim(
                "Li et al. 2021: local normalisation helps (they show it for differing features)",
                "fedbn",
                "fedavg adapt_steps=0",
                CLIENT,
            ),
            Claim("... more than to fine-tune FedAvg's model", "fedbn", TUNED, CLIENT),
        ),
    ),
    Experiment(
        "adaptation",
        ("strategy=perfedavg evaluate.adapt_steps=0,1", "strategy=fedavg evaluate.adapt_steps=0,1,turn"),
        CLIENT,
        (
            Claim(
                "Fallah et al. 2020: after one step on a client's own data (Per-FedAvg takes its own)",
                "perfedavg adapt_steps=0",
                "fedavg adapt_steps=1",
                CLIENT,
            ),
            Claim("... than FedAvg's model after a whole turn", "perfedavg adapt_steps=0", TUNED, CLIENT),
        ),
    ),
    Experiment(
        "fairness",
        ("strategy=fedavg,loadaboost",),
        WORST,
        (
            Claim("Huang et al. 2020: LoAdaBoost is as accurate", "loadaboost", "fedavg", CLIENT),
            Claim("LoAdaBoost's worst decile", "loadaboost", "fedavg", WORST),
        ),
    ),
    Experiment(
        "servers",
        (
            "strategy=fedavg,fedavgm,fedadam,fedyogi,fedadagrad,qfedavg model.norm=batch,group",
            "strategy=fedmedian,fedtrimmedavg,krum,multikrum,bulyan model.norm=batch,group",
        ),
        TEST,
        (),
        "Krum takes one client's model and leaves the work of the nine others. FedMedian, FedTrimmedAvg and Bulyan pay "
        "for a safety that nobody here tests. The optimisers' rates were chosen on `task=mnist` and `task=cifar`, the "
        "latter without normalisation, from a grid of twelve.",
    ),
)


def read(folder: Path) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """For each run below `folder` what it is called, its seed and its metrics."""
    for run in runs(folder):
        words = dict(word.split("=") for word in yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text()))
        told = sorted(key for key in words if key.startswith("evaluate.") or key in ("weighting", "model.norm"))
        extra = [f"{key.split('.')[-1]}={words[key]}" for key in told]
        yield " ".join([words["strategy"], *extra]), int(words["seed"]), pd.read_csv(run / "metrics.csv")


def report(experiment: Experiment, folder: Path) -> str:
    """One experiment's part of the page; draws its figure too."""
    tables = pd.concat(
        [table.assign(run=run, seed=seed) for run, seed, table in read(folder / experiment.name)], ignore_index=True
    )
    draw(experiment, tables)
    last = tables.groupby(["run", "seed"]).last()
    shown = [c for c in (CLIENT, PLAIN, "client_accuracy_std", WORST, TEST, "train_amount") if c in last]
    mean, spread = last.groupby("run")[shown].mean(), last.groupby("run")[shown].std()
    comment = (HERE / "conf" / "experiment" / f"{experiment.name}.yaml").read_text().splitlines()[1]
    lines = [f"## `experiment={experiment.name}`", "", comment[2].upper() + comment[3:] + ".", ""]
    lines += [experiment.remark, ""] if experiment.remark else []
    for words in experiment.sweeps:
        lines.append(f"    fl-bench -m experiment={experiment.name} {words} seed={','.join(map(str, SEEDS))}")
    rows: list[list[str]] = []
    for run in mean.sort_values(experiment.curve, ascending=False).index:
        cells = [plus_minus(mean[c][run], spread[c][run]) if pd.notna(mean[c][run]) else "" for c in shown]
        rows.append([run, *cells])
    lines += [
        "",
        *markdown(["", *shown], rows),
        "",
        f"![{experiment.curve} over the rounds](images/results-{experiment.name}.png)",
        "",
    ]
    if not experiment.claims:
        return "\n".join(lines)
    rows = [judged(claim, tables) for claim in experiment.claims]
    return "\n".join(lines + markdown(["claim", "compared", "differences by seed", "holds"], rows))


def judged(claim: Claim, tables: pd.DataFrame) -> list[str]:
    """The row of a claim."""
    known = tables.dropna(subset=[claim.metric]).set_index("run")
    ours, theirs = (known.loc[name].set_index(["seed", "round"])[claim.metric] for name in (claim.run, claim.baseline))
    seeds = ours.index.unique("seed")
    last = [theirs[seed].iloc[-1] for seed in seeds]
    if claim.by_rounds:
        needed = [first_to(ours[seed], goal) for seed, goal in zip(seeds, last, strict=True)]
        whole = [first_to(theirs[seed], goal) for seed, goal in zip(seeds, last, strict=True)]
        differences = [b - a for a, b in zip(needed, whole, strict=True)]
        said = ["never" if rounds == NEVER else f"{rounds:.0f}" for rounds in needed]
        by_seed = ", ".join(f"{few} of {most:.0f}" for few, most in zip(said, whole, strict=True))
        compared = f"{claim.run}: rounds to where {claim.baseline} ends, of those that it needs, `{claim.metric}`"
    else:
        differences = [ours[seed].iloc[-1] - goal for seed, goal in zip(seeds, last, strict=True)]
        by_seed = ", ".join(f"{difference:+.3f}" for difference in differences)
        compared = f"{claim.run} - {claim.baseline}, `{claim.metric}`"
    wins = sum(difference > ZERO for difference in differences)
    verdict = {0: "**no**", len(differences): "yes"}.get(wins, f"in {wins} of {len(differences)} seeds")
    return [claim.paper, compared, by_seed, verdict]


NEVER = float("inf")


def first_to(curve: "pd.Series[float]", goal: float) -> float:
    """The first round in which a curve [rounds] is at the goal or above."""
    there = curve.index[curve >= goal]
    return float(there[0]) if len(there) else NEVER


def draw(experiment: Experiment, tables: pd.DataFrame) -> None:
    """The mean over the seeds round by round, and the range between the lowest and the highest."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    known = tables.dropna(subset=[experiment.curve])
    rounds = known.groupby(["run", "round"])[experiment.curve].agg(["mean", "min", "max"])
    for run in rounds["mean"].groupby("run").last().sort_values(ascending=False).index:
        part = rounds.loc[run]
        (line,) = axes.plot(part["mean"], label=run)
        axes.fill_between(part.index, part["min"], part["max"], color=line.get_color(), alpha=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axes, "round", experiment.curve)
    axes.legend(fontsize="small")
    figure.savefig(HERE / "docs" / "images" / f"results-{experiment.name}.png", dpi=110)


INTRODUCTION = """# Results

What the papers claim, tried on the small embedded tasks: real MNIST digits, and those digits on photos as small colour
images (`task=cifar`, not CIFAR-10). Made by `make results` from the settings in `conf/experiment/`, which takes about
half an hour on two cores and writes this page and its figures anew.

Three seeds, each with another partition, model and order of batches. Numbers are means over the seeds at the last
round, ± their standard deviation; in the figures the range from the lowest to the highest. `client_*` are of the
clients' own held-out data, by the model that each would use: its own, where the method makes one. All strategies have
the parameters of their yaml, which were not tuned for these tasks, and equal numbers of rounds, not of steps: for each
batch pFedMe takes five steps, and Ditto, APFL, FedRep and Per-FedAvg two. `test_accuracy` is empty where layers stay
with the clients, as there is no whole global model then; `train_amount` is how many local epochs LoAdaBoost's clients
took, by examples, where FedAvg's take 4.

Three seeds on small data show directions, not the papers' numbers. Where a claim does not hold here, the table says so;
a difference that would be written as 0.000 never counts as holding. Who says that fewer rounds are needed is judged by
them: by how many it takes to come to where FedAvg ends. `client_accuracy_uniform` has each client count the same, where
`client_accuracy` has each example.
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fl-bench-results-") as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        if len(sys.argv) == 1:
            jobs = [
                (e, f"experiment={e.name} {words} seed={seed}")
                for e in EXPERIMENTS
                for words in e.sweeps
                for seed in SEEDS
            ]
            run_all([(words, folder / e.name / str(index)) for index, (e, words) in enumerate(jobs)])
        parts = [INTRODUCTION, *(report(experiment, folder) for experiment in EXPERIMENTS)]
    (HERE / "docs" / "results.md").write_text("\n\n".join(part.strip() for part in parts) + "\n")


if __name__ == "__main__":
    main()
