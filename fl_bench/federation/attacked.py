"""What malicious clients send: of one at its worker, of those who know each other's updates at the server."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.attacks.base import Attack, Knows
from fl_bench.federation.defended import bounded
from fl_bench.federation.exchange import TOTAL, Answer, Report, Status
from fl_bench.federation.parameters import Layout
from fl_bench.federation.update import Diverged, ExactMean, Update, check_size
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
    attack: Attack, reports: Sequence[tuple[ExactMean, Report]], layout: Layout, rule: Rule, each: bool
) -> Sequence[Report]:
    """Workers' reports of each client's model as they are once the malicious clients have made theirs, together.

    What they have made is bounded by the `rule`, and unless `each` model is needed, those of a report are added up, as
    its worker would have done. A client whose numbers are none, or too large, has failed.
    """
    starts = {int(name): mean.start for mean, report in reports for name in report.models}
    models = {int(name): values for _, report in reports for name, values in report.models.items()}
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
    return [_report(mean, report, models, each) for mean, report in reports]


def _report(mean: ExactMean, report: Report, models: dict[int, Vector], each: bool) -> Report:
    """A worker's report with these models, or their sum."""
    kept: dict[str, NDArray] = {}
    total: Update | None = None
    answers: list[Answer] = []
    for answer in report.answers:
        try:
            if str(answer.client) in report.models:
                model = models[answer.client]
                check_size(model, mean.start)
                if each:
                    kept[str(answer.client)] = model
                else:
                    total = mean.add(total, Update(model, answer.weight))
        except Diverged as error:
            answer = replace(answer, status=Status.FAILED, why=str(error))
        answers.append(answer)
    if total is not None:
        return replace(report, answers=answers, models={TOTAL: total.values}, weight=total.weight)
    return replace(report, answers=answers, models=kept)
