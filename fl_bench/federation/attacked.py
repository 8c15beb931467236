"""What malicious clients send: of one at its worker, of those who know each other's updates at the server."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.attacks.base import Attack, Knows
from fl_bench.federation.defended import bounded
from fl_bench.federation.exchange import Answer, Report, Status
from fl_bench.federation.loads import Pack
from fl_bench.federation.parameters import Layout
from fl_bench.federation.update import Diverged, ExactMean, check_size
from fl_bench.robust.base import Rule

Vector = NDArray[np.float32]


def sent(attack: Attack, client: int, round: int, layout: Layout, received: Vector, trained: Vector) -> Vector:
    """The payload that a client sends after its turn [P], from the one that it has received and the one it has made."""
    if not attack.attacks(client, round):
        return trained
    update = layout.update(trained, received)
    made = attack.update(update, rng.generator(attack.seed, "attack", round, client))
    return trained if made is update else layout.updated(trained, received, made)


def colludes(attack: Attack, clients: Sequence[int], round: int) -> bool:
    """Whether the server has to know the model of each of these clients, for some of them to make theirs of it."""
    return attack.knows is not Knows.OWN and any(attack.attacks(client, round) for client in clients)


def collude(
    attack: Attack, found: Sequence[tuple[Pack, Report]], layout: Layout, rule: Rule
) -> list[tuple[Pack, Report]]:
    """Workers' reports of each client's model as they are once the malicious clients have made theirs, together.

    What they have made is bounded by the `rule`. A client whose numbers are none, or too large, has failed.
    """
    starts = {int(name): pack.mean.start for pack, report in found for name in report.models}
    models = {int(name): values for _, report in found for name, values in report.models.items()}
    updates = {client: layout.update(models[client], starts[client]) for client in sorted(models)}
    malicious = [client for client in updates if client in attack.malicious]
    if malicious:
        own = np.stack([updates[client] for client in malicious])
        known = [u for client, u in updates.items() if client not in attack.malicious and attack.knows is Knows.ALL]
        made = attack.together(own, np.array(known).reshape(len(known), own.shape[1]), len(updates))
        for client, update in zip(malicious, np.broadcast_to(made, own.shape), strict=True):
            if made is not own:
                made_now = layout.updated(models[client], starts[client], update)
                models[client] = bounded(rule, layout, starts[client], made_now, rule.centre)
    return [(pack, _report(pack.mean, report, models)) for pack, report in found]


def _report(mean: ExactMean, report: Report, models: dict[int, Vector]) -> Report:
    """A worker's report with these models."""
    kept: dict[str, NDArray] = {}
    answers: list[Answer] = []
    for answer in report.answers:
        try:
            if str(answer.client) in report.models:
                check_size(models[answer.client], mean.start)
                kept[str(answer.client)] = models[answer.client]
        except Diverged as error:
            answer = replace(answer, status=Status.FAILED, why=str(error))
        answers.append(answer)
    return replace(report, answers=answers, models=kept)
