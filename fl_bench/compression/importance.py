"""Only what matters is sent: clients that withhold their update, or all but some coordinates of it."""

import numpy as np

from fl_bench.compression.base import Codec, Link, Vector, part
from fl_bench.compression.sparse import Indices, Sparse, largest
from fl_bench.errors import ConfigError


def importance(rule: str, threshold: float, share: float, fraction: float) -> Codec:
    """The codec of `rule`, each of which has one number to set."""
    rules = {"cmfl": (Agreeing, threshold), "gradient_norm": (Long, share), "esgd": (Rewarded, fraction)}
    if rule not in rules:
        raise ValueError(f"rule={rule}: must be one of {', '.join(rules)}")
    kind, number = rules[rule]
    return kind(number)


class Agreeing(Codec):
    """CMFL: Wang et al. 2019, "CMFL: Mitigating Communication Overhead for Federated Learning", ICDCS.

    An update is sent where the share of its numbers with the sign of the last global update is `threshold` or more.
    That update is the difference of the models that the client has received. Where there is none, at its first turn or
    because nobody has sent anything, it sends.
    """

    def __init__(self, threshold: float) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold}: must be from 0 to 1")
        self.threshold = threshold

    def suit(self, down: Codec) -> None:
        if down.random:
            raise ConfigError(
                "compression/down: what is rounded at random hides the global update that rule cmfl compares with; "
                "use fp16 or none"
            )

    def matters(self, update: Vector, link: Link) -> bool:
        before = link.memory.get("received")
        link.memory["received"] = link.received
        if before is None or np.array_equal(before, link.received):
            return True
        return bool(np.mean(np.sign(update) == np.sign(link.received - before)) >= self.threshold)


class Long(Codec):
    """An update is sent where its norm is `share` or more of the client's running mean, half of which is its last norm.

    In the manner of Chen et al. 2018, "LAG: Lazily Aggregated Gradient for Communication-Efficient Distributed
    Learning", arXiv:1805.09965, but each client compares with itself.
    """

    def __init__(self, share: float) -> None:
        if not share >= 0:
            raise ValueError(f"share={share}: must be a number from 0")
        self.share = share

    def matters(self, update: Vector, link: Link) -> bool:
        norm = np.linalg.norm(update.astype(np.float64))
        mean = link.memory.get("norm", norm)
        link.memory["norm"] = np.asarray((mean + norm) / 2)
        return bool(norm >= self.share * mean)


class Rewarded(Sparse):
    """In the manner of eSGD: Tao and Li 2018, "eSGD: Communication Efficient Distributed Deep Learning on the Edge".

    A `fraction` of the numbers is drawn with odds of magnitude x hidden weight. When the client's loss has fallen since
    its last turn, what it sent then has mattered, and gains weight. What is not sent is kept for the next time.
    """

    reads_loss = True

    def __init__(self, fraction: float) -> None:
        super().__init__(fraction, feedback=True)

    def choose(self, vector: Vector, link: Link) -> Indices:
        weights = link.memory.get("weights", np.ones(link.size, np.float32)).copy()
        if link.loss < link.memory.get("loss", -np.inf):
            weights[link.memory["chosen"]] += 1
        # The largest of log(odds) + Gumbel noise are a draw without replacement by these odds.
        odds = np.maximum(weights * np.abs(vector, dtype=np.float64), 1e-300)
        lots = np.log(odds) + link.draw("lots").gumbel(size=link.size)
        chosen = largest(lots, part(self.fraction, link.size))
        link.memory |= {"weights": weights, "loss": np.asarray(link.loss), "chosen": chosen}
        return chosen
