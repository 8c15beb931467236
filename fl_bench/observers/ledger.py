"""The ledger of a run: a signed block of each round, and what came of its clients."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from fl_bench.errors import ConfigError, Damaged, RunError
from fl_bench.federation.rounds import Experiment, Round
from fl_bench.ledger import chain
from fl_bench.ledger.signers import Signers
from fl_bench.ledger.statements import SIGNING, digest, statements
from fl_bench.observers.base import Observer
from fl_bench.storage.buffers import BESIDE
from fl_bench.storage.checkpoint import Checkpoint

REPLAYED = (
    "seed",
    "min_clients",
    "robust",
    "topology",
)  # of the config, what with the strategy's server half makes models


class Ledger(Observer):
    """Adds a block a round to the ledger in the folder of the experiment's run."""

    keeps = "ledger"

    def __init__(self, made: Experiment, signers: Signers) -> None:
        self.folder = made.folder / chain.FOLDER
        self.run = made.states.run
        self.signers = signers
        self.last = ""  # the digest of the last block
        cfg, trainer = made.cfg, made.trainer
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        strategy = {key: config["strategy"][key] for key in ("server", "needs_each_client")}
        self.opening = {
            **signers.to_json(),
            "config": {key: config[key] for key in REPLAYED} | {"strategy": strategy},
            "layout": [[name, list(shape)] for name, shape in trainer.layout.shapes.items()],
            "weights": {"each": trainer.weighting.each.tolist(), "most": trainer.weighting.most},
        }

    def go_on(self, round: int) -> None:
        """After this round, which a checkpoint is of: later blocks go.

        Raises Damaged where its block is not the one that was written, and ConfigError where others have the keys now.
        """
        first, block = chain.read(self.folder, 0), chain.read(self.folder, round)
        if block.digest != self.last:
            raise Damaged(f"block {round}: {self.folder / f'{round}.json'} is not what this run has written")
        for key in ("server", "signers"):
            if first.header.get(key) != self.opening[key]:
                raise ConfigError(f"ledger.signed=True: {self.folder}: block 0 has other keys ({key}) than sign now")
        chain.settle(self.folder, round)

    def see(self, round: Round) -> None:
        """Raises RunError where a client has sent more than a model, or its site has not signed what it has sent."""
        header = {"round": round.number, "run": self.run, "model": digest(round.vector)}
        if round.plan is None:
            self._add({**header, **self.opening}, [], [round.vector])
            return
        bodies = statements(self.run, round.number, round.answers)
        signed, models = [], []
        silent: list[Mapping[str, Any]] = []
        for answer in round.answers:
            if answer.status not in SIGNING:
                silent.append({"client": answer.client, "status": answer.status, "why": answer.why})
                continue
            body = bodies[answer.client]
            if answer.message is not None and BESIDE in answer.message.content:
                raise RunError("ledger=signed: keeps models, and clients send arrays beside them; use ledger=none")
            signature = self.signers.signature(body, answer)
            if signature is None:
                raise RunError(f"round {round.number}: the site of client {answer.client} has not signed what it sends")
            signed.append({"body": body, "signature": signature})
            models += [answer.sent.model] if answer.sent is not None and answer.sent.model is not None else []
        plan = {"asked": list(round.plan.asked), "dropping": sorted(round.plan.dropping), "told": dict(round.plan.told)}
        self._add({**header, **plan, "silent": silent}, signed, models)

    def _add(self, header: chain.Header, signed: Sequence[Mapping[str, Any]], models: Sequence[Any]) -> None:
        self.last = chain.write(self.folder, header, signed, models, self.signers.server, self.last)

    def __getstate__(self) -> dict[str, Any]:
        return {"last": self.last}


def ledger_of(made: Experiment, start: Checkpoint | None, signers: Callable[[int, int], Signers]) -> list[Ledger]:
    """The ledger of a run, or none, as it was at the checkpoint from which the run goes on; raises as `go_on`.

    `signers` says who signs, by the seed and the number of clients.
    """
    if not made.cfg.ledger.signed:
        return []
    ledger = Ledger(made, signers(made.cfg.seed, len(made.trainer.partition.ends)))
    if start is not None:
        start.put_back({ledger.keeps: ledger})
        ledger.go_on(start.round)
    return [ledger]
