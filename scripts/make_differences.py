"""Make docs/flower-differences.md: where our strategies are not Flower's stock ones, and how far apart they are.

    make differences        (or .venv/bin/python scripts/make_differences.py)

It takes a minute on one core.
"""

import gc
import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

import stock
import stock_private
import stock_runs
from sweeps import HERE, markdown

PAGE = HERE / "docs" / "flower-differences.md"
FLOWER = "flwr.serverapp.strategy"


HEADER = ("strategy", "stock Flower", "measured", "here")


class Difference(NamedTuple):
    strategies: Sequence[str]
    stock: str  # what Flower's does
    measured: Callable[[], str] | None
    here: str
    everywhere: bool = True  # other machines have the same numbers; not so of runs, and of float32's last digits

    def row(self) -> list[str]:
        names = ", ".join(f"`{name}`" for name in self.strategies) or "all"
        measured = self.measured() if self.measured else "not measured: see [Architecture](architecture.md)"
        return [names, self.stock, measured, self.here]


ADAPTIVE = tuple(name.lower() for name in stock.OPTIMISERS)
KRUMS = ("krum", "multikrum", "bulyan")
PRIVATE = ("dp_server_fixed", "dp_client_fixed", "dp_server_adaptive", "dp_client_adaptive")

FROM_ZERO = "v begins with 0, where the paper has tau^2"
STEPS = {
    "FedAdam": f"{FROM_ZERO}; in round t the rate is multiplied by "
    "sqrt(1 - beta_2^(t + 1)) / (1 - beta_1^(t + 1)), which the paper's FedAdam does not do, and Adam does with t",
    "FedYogi": FROM_ZERO,
    "FedAdagrad": FROM_ZERO,
}

DIFFERENCES = (
    Difference(
        ("fedavgm",),
        "BatchNorm's running means and variances are stepped as if they were weights",
        stock.momentum_of_variances,
        "they become their mean",
    ),
    Difference(
        ("fedavgm",),
        "the same, in a run: a negative variance has no root",
        stock_runs.batchnorm,
        "they become their mean",
        everywhere=False,
    ),
    Difference(
        ADAPTIVE,
        "the same, by steps of about eta, however far the clients' variance is",
        stock.adaptive_variances,
        "they become their mean",
    ),
    *(
        Difference((name.lower(),), STEPS[name], partial(stock.first_steps, name), "the paper's algorithm 2")
        for name in stock.OPTIMISERS
    ),
    Difference(
        ("qfedavg",),
        "the loss F is the mean of the local steps, which falls while the client trains; in the paper it is that of "
        "the model received",
        stock_runs.losses,
        "each client first takes the loss of what it has received, on all of its data",
        everywhere=False,
    ),
    Difference(
        ("qfedavg",),
        "L = 1 / lr whatever the optimiser, though with momentum a gradient leads 1 / (1 - momentum) times as far",
        stock.fair_step,
        "L = (1 - momentum) / lr; other optimisers than SGD need `strategy.lipschitz`",
    ),
    Difference(
        ("qfedavg",),
        "BatchNorm's statistics are stepped, and count in the length of the update, which shortens the step",
        stock.fair_statistics,
        "they become their mean by examples, and do not count",
    ),
    Difference(
        ("qfedavg",),
        "q = 0 is the plain mean, as in the paper, and not FedAvg's by examples",
        stock.without_fairness,
        "the same; it is FedAvg with `weighting=uniform`",
    ),
    Difference(
        KRUMS,
        "distances are of whole models, as x.x + y.y - 2 x.y in float32: small updates are lost in rounding",
        stock.distances,
        "distances of updates in float64, without BatchNorm's statistics",
        everywhere=False,
    ),
    Difference(
        ("multikrum",),
        "the selected models are averaged by examples, which a client says itself; in the paper each counts once",
        stock.selected_means,
        "each counts once",
    ),
    Difference(
        ("bulyan",),
        "selects n - 2 f by the scores of all at once; the paper selects one, and scores those that are left anew",
        stock.selected_once,
        "the paper's",
    ),
    Difference(
        KRUMS,
        "Krum and MultiKrum take any number of malicious clients; Bulyan makes no model of a round, or raises an error",
        stock.refusals,
        "refused before the run: Krum and Multi-Krum need 2 f + 3 answers a round, Bulyan 4 f + 3; with fewer "
        "the old model stays",
    ),
    Difference(
        ("fedtrimmedavg",),
        "a `beta` so small that nobody is cut off is accepted",
        stock.nobody_is_cut,
        "refused before the run, but for 0; where so many clients fail that it cuts off nobody, the old model stays",
    ),
    Difference(
        PRIVATE,
        "updates are averaged by examples, while the noise is that of the plain mean, z C / n: too little by the "
        "largest share of the weight times n; and a client that is replaced by another changes the sum by 2 C",
        stock_private.weighed_by_examples,
        "each counts once, and the noise is 2 z C / n, or with `strategy.sampling=poisson` z C / n",
    ),
    Difference(
        PRIVATE,
        "the same, on skewed data",
        stock_runs.unequal_clients,
        "each counts once",
        everywhere=False,
    ),
    Difference(
        PRIVATE[2:],
        "the norm is lowered by the share of updates that were clipped, in the paper by the share that were not: it "
        "runs away from the quantile",
        stock_private.norms,
        "the paper's",
    ),
    Difference(
        PRIVATE[2:],
        "the norm is changed first, and the noise is that of the next round's",
        stock_private.noise_of_the_next_norm,
        "the noise is that of the norm that has clipped",
    ),
    Difference(
        PRIVATE,
        "a round in which one client has failed makes no model",
        stock_private.failures,
        "the sum is divided by `clients_per_round` whoever answers: who is absent counts as an update of zero",
    ),
    Difference(
        (PRIVATE[0], PRIVATE[2]),
        "an update that is exactly zero is divided by its length",
        stock_private.zero_update,
        "it stays zero",
    ),
    Difference(
        PRIVATE,
        "no epsilon, unless the fixed ones are given an `accountant`: it wants equal weights, takes a client to come "
        "or go though cohorts have a fixed size, and does not count that these are a sample; others have none",
        stock_private.accounted,
        "epsilon is a column of metrics.csv, for cohorts of a fixed size or Poisson's, as they are drawn",
    ),
    Difference(
        (),
        "a seed does not fix who trains: the ids of the nodes, from which a round draws, come from the system's random "
        "numbers (`os.urandom`) in every run",
        None,
        "the schedule draws from clients 0 to n - 1 by (seed, round)",
    ),
    Difference(
        (),
        "replies are added up in the order of their arrival, in float32, so that the last digits differ between runs",
        None,
        "answers are put in the order of the clients, and a mean is added up exactly",
    ),
)

TARGET = f"strategy.server._target_={FLOWER}"
CLIENT_SIDE = (
    f"{TARGET}.DifferentialPrivacyClientSide{{}}Clipping strategy.client._target_=fl_bench.strategies.clipping.Clipping"
)

ROBUST = {  # of Flower's, with what it is given
    "Krum": "num_malicious_nodes=1",
    "MultiKrum": "num_malicious_nodes=1 +strategy.server.num_nodes_to_select=9",
    "Bulyan": "num_malicious_nodes=1",
    "FedTrimmedAvg": "beta=0.2",
}

# The words for Flower's own, for each strategy.
WORDS = {
    **{name.lower(): f"strategy={name.lower()} {TARGET}.{name}" for name in ("FedAvgM", *stock.OPTIMISERS)},
    **{
        name.lower(): f"{TARGET}.{name} strategy.needs_each_client=true +strategy.server.{given}"
        for name, given in ROBUST.items()
    },
    "qfedavg": "--config-dir conf strategy=stock_qfedavg",
    "dp_server_fixed": "--config-dir conf strategy=stock_dp_fixed",
    "dp_server_adaptive": "--config-dir conf strategy=stock_dp_adaptive",
    "dp_client_fixed": f"--config-dir conf strategy=stock_dp_fixed {CLIENT_SIDE.format('Fixed')}",
    "dp_client_adaptive": f"--config-dir conf strategy=stock_dp_adaptive {CLIENT_SIDE.format('Adaptive')}",
}

# Files of conf/strategy in a folder of one's own.
YAML = {
    "stock_qfedavg": f"""# Flower's q-FedAvg
q: 0.1
server:
  _target_: {FLOWER}.QFedAvg
  q: ${{..q}}
  client_learning_rate: ${{local.lr}}
needs_each_client: true
""",
    "stock_dp_fixed": f"""# Flower's differential privacy with a fixed norm, clipped at the server
noise_multiplier: 0.1         # times the norm / clients_per_round: the noise's standard deviation
clipping_norm: 1.0
server:
  _target_: {FLOWER}.DifferentialPrivacyServerSideFixedClipping
  strategy: {{_target_: {FLOWER}.FedAvg}}
  noise_multiplier: ${{..noise_multiplier}}
  clipping_norm: ${{..clipping_norm}}
  num_sampled_clients: ${{clients_per_round}}
needs_each_client: true
""",
    "stock_dp_adaptive": f"""# Flower's differential privacy with a norm that follows a quantile, clipped at the server
noise_multiplier: 0.1         # as above, before what the count adds
initial_clipping_norm: 1.0
target_clipped_quantile: 0.5
server:
  _target_: {FLOWER}.DifferentialPrivacyServerSideAdaptiveClipping
  strategy: {{_target_: {FLOWER}.FedAvg}}
  noise_multiplier: ${{..noise_multiplier}}
  initial_clipping_norm: ${{..initial_clipping_norm}}
  target_clipped_quantile: ${{..target_clipped_quantile}}
  num_sampled_clients: ${{clients_per_round}}
needs_each_client: true
""",
}

INTRODUCTION = f"""# Differences from Flower

Where a strategy of Flower {version("flwr")} does something else than its paper, or loses numbers, ours has a server
half of its own. This page says where, and how far apart they are. It is made by `make differences`, which takes a
minute and writes it anew. Flower's class and ours are given the same answers of clients; where the paper's formula
gives a number, the script fails if ours has another. A row with words for `fl-bench` is a run.

The cases are small, made to show a difference. They do not say how much it matters in an experiment: for that, run
both. C is the norm to which updates are clipped, z the noise multiplier, n how many clients a round has, and f how many
of them may be malicious.
"""

AFTERWARDS = """`fedprox` has Flower's server half, with `strategy.mu=adaptive` besides, and a client half of ours, as
Flower has none. These have Flower's server half as it is: {}.
So has `fedxgb_cyclic`, but that all clients are evaluated, where Flower's asks one.

## The stock ones, to compare

Flower's own classes run here too, in the same rounds with the same clients. These words take them instead of ours; the
other keys stay as they are. Of the robust ones ours are FedAvg with a rule, `robust=krum` and so on; Flower's are
strategies, and its MultiKrum weighs plainly with `weighting=uniform`.
"""

OWN = """The others need a yaml in a folder of your own, which `--config-dir` names. With `weighting=uniform` no client
weighs more than 1 / n, as the noise supposes.
"""


def page() -> str:
    options = sorted((HERE / "conf" / "strategy").glob("*.yaml"))
    texts = {file.stem: file.read_text() for file in options}
    as_they_are = [name for name, text in texts.items() if f"_target_: {FLOWER}." in text and "/robust:" not in text]
    afterwards = AFTERWARDS.format(", ".join(f"`{name}`" for name in as_they_are))
    table = markdown(HEADER, [difference.row() for difference in DIFFERENCES])
    changed, own = (
        [f"    fl-bench {words}" for words in WORDS.values() if words.startswith("--config-dir") == is_own]
        for is_own in (False, True)
    )
    files = [f'```yaml title="conf/strategy/{name}.yaml"\n{text}```' for name, text in YAML.items()]
    parts = [INTRODUCTION, "\n".join(table), afterwards, "\n".join(changed), OWN, *files, "\n".join(own)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def main() -> None:
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    gc.freeze()  # Flower's q-FedAvg collects garbage for every client
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
