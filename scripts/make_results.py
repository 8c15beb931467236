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


class Claim(NamedTuple):
    paper: str
    run: str
    baseline: str
    metric: str


class Experiment(NamedTuple):
    name: str
    sweeps: tuple[str, ...]
    curve: str  # the metric of the figure
    claims: tuple[Claim, ...]


EXPERIMENTS = (
    Experiment(
        "personalised",
        (
            "strategy=fedavg,fedper,fedrep,ditto",
            "strategy=apfl,perfedavg,local_only,centralized",
            "strategy=pfedme",
        ),
        CLIENT,
        (
            Claim("Arivazhagan et al. 2019: personal layers help", "fedper", "fedavg", CLIENT),
            Claim("Collins et al. 2021: a shared representation helps", "fedrep", "fedavg", CLIENT),
            Claim("Collins et al. 2021: more than with FedPer", "fedrep", "fedper", CLIENT),
            Claim("Li et al. 2021: Ditto is more accurate", "ditto", "fedavg", CLIENT),
            Claim("Li et al. 2021: Ditto is fairer", "ditto", "fedavg", WORST),
            Claim("Deng et al. 2020: a mixture helps", "apfl", "fedavg", CLIENT),
            Claim("Dinh et al. 2020: personal models help", "pfedme", "fedavg", CLIENT),
            Claim("every personalised method should beat training alone: FedPer", "fedper", "local_only", CLIENT),
            Claim("... FedRep", "fedrep", "local_only", CLIENT),
            Claim("... Ditto", "ditto", "local_only", CLIENT),
            Claim("... APFL", "apfl", "local_only", CLIENT),
            Claim("... pFedMe", "pfedme", "local_only", CLIENT),
        ),
    ),
    Experiment(
        "drift",
        ("strategy=fedavg,fedprox,fednova", "strategy=scaffold,feddyn,centralized"),
        TEST,
        (
            Claim("Karimireddy et al. 2020: SCAFFOLD needs fewer rounds", "scaffold", "fedavg", TEST),
            Claim("Acar et al. 2021: FedDyn needs fewer rounds", "feddyn", "fedavg", TEST),
            Claim("Wang et al. 2020: FedNova, where clients take unequal numbers of steps", "fednova", "fedavg", TEST),
            Claim("Li et al. 2020: FedProx is more robust", "fedprox", "fedavg", TEST),
        ),
    ),
    Experiment(
        "contrast",
        ("strategy=fedavg", "strategy=moon"),
        TEST,
        (Claim("Li et al. 2021: MOON needs fewer rounds", "moon", "fedavg", TEST),),
    ),
    Experiment(
        "normalisation",
        ("strategy=fedavg,fedbn",),
        CLIENT,
        (
            Claim(
                "Li et al. 2021: local normalisation helps (they show it for differing features)",
                "fedbn",
                "fedavg",
                CLIENT,
            ),
        ),
    ),
    Experiment(
        "adaptation",
        ("strategy=fedavg,perfedavg evaluate.adapt_steps=0,1",),
        CLIENT,
        (
            Claim(
                "Fallah et al. 2020: after one step on a client's own data (Per-FedAvg takes its own)",
                "perfedavg adapt_steps=0",
                "fedavg adapt_steps=1",
                CLIENT,
            ),
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
)


def read(folder: Path) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """For each run below `folder` what it is called, its seed and its metrics."""
    for run in runs(folder):
        words = dict(word.split("=") for word in yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text()))
        extra = [f"{key.split('.')[-1]}={words[key]}" for key in sorted(words) if key.startswith("evaluate.")]
        yield " ".join([words["strategy"], *extra]), int(words["seed"]), pd.read_csv(run / "metrics.csv")


def report(experiment: Experiment, folder: Path) -> str:
    """One experiment's part of the page; draws its figure too."""
    tables = pd.concat(
        [table.assign(run=run, seed=seed) for run, seed, table in read(folder / experiment.name)], ignore_index=True
    )
    draw(experiment, tables)
    last = tables.groupby(["run", "seed"]).last()
    shown = [c for c in (CLIENT, "client_accuracy_std", WORST, TEST, "train_amount") if c in last]
    mean, spread = last.groupby("run")[shown].mean(), last.groupby("run")[shown].std()
    comment = (HERE / "conf" / "experiment" / f"{experiment.name}.yaml").read_text().splitlines()[1]
    lines = [f"## `experiment={experiment.name}`", "", comment[2].upper() + comment[3:] + ".", ""]
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
    rows = []
    for claim in experiment.claims:
        differences = (last.loc[claim.run][claim.metric] - last.loc[claim.baseline][claim.metric]).tolist()
        wins = sum(difference > 0 for difference in differences)
        verdict = {0: "**no**", len(differences): "yes"}.get(wins, f"in {wins} of {len(differences)} seeds")
        by_seed = ", ".join(f"{difference:+.3f}" for difference in differences)
        rows.append([claim.paper, f"{claim.run} - {claim.baseline}, `{claim.metric}`", by_seed, verdict])
    return "\n".join(lines + markdown(["claim", "compared", "differences by seed", "holds"], rows))


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
a quarter of an hour on two cores and writes this page and its figures anew.

Three seeds, each with another partition, model and order of batches. Numbers are means over the seeds at the last
round, ± their standard deviation; in the figures the range from the lowest to the highest. `client_*` are of the
clients' own held-out data, by the model that each would use: its own, where the method makes one. All strategies have
the parameters of their yaml, which were not tuned for these tasks, and equal numbers of rounds, not of steps: for each
batch pFedMe takes five steps, and Ditto, APFL, FedRep and Per-FedAvg two. `test_accuracy` is empty where layers stay
with the clients, as there is no whole global model then; `train_amount` is how many local epochs LoAdaBoost's clients
took, by examples, where FedAvg's take 4.

Three seeds on small data show directions, not the papers' numbers. Where a claim does not hold here, the table says so.
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
