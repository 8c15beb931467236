"""Sums that nobody can take apart, over a fleet: what the server asks of the parties, and what a worker does for them.

A party is a client, or where clients have a home a whole site, which adds up its own clients first. In a round the
server asks for the parties' keys, for their shares, for the masked sum of those who have trained, and for the shares
that take the masks away: see masking/party.py.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.errors import RunError, note
from fl_bench.federation.exchange import Answer, Status
from fl_bench.federation.trained import Trained
from fl_bench.federation.update import ExactMean, Update
from fl_bench.masking.party import SHARE, Circle, Keys, Party, Unsafe, unmask
from fl_bench.masking.words import Numbers
from fl_bench.metrics import Mean, merge

KEYS, SHARES, TRAIN, WEIGH, REVEAL = "keys", "shares", "train", "weigh", "reveal"  # what is asked
SEALED = 2 * SHARE + 16  # bytes of both shares and of what proves them
Parties = Mapping[str, Sequence[int]]  # their clients, by name
Said = Mapping[str, Any]  # by party


def bytes_down(parties: int) -> int:
    """What a party receives in a round beside the model: keys of all, shares of all, and who has answered."""
    return parties * (64 + SEALED + 1)


def bytes_up(parties: int, words: int) -> int:
    """What a party sends in a round, with so many masked words; with 0 of them one who has dropped out meanwhile."""
    return 64 + parties * SEALED + (8 * words + parties * SHARE if words else 0)


# The worker


def speak(wish: Mapping[str, Any], seed: int, round: int, weights: NDArray[np.int64]) -> Said:
    """What the parties at a worker answer to `wish`; `weights` [num_clients] are those of the clients here."""
    parties = {name: Party(name, _secret(wish, name, seed, round), wish["attempt"]) for name in wish["parties"]}
    if wish["ask"] == KEYS:
        return {name: [party.keys.seal.hex(), party.keys.pairs.hex()] for name, party in parties.items()}
    circle = circle_of(wish)
    if wish["ask"] == SHARES:
        return {n: {other: box.hex() for other, box in party.shares(circle).items()} for n, party in parties.items()}
    if wish["ask"] == WEIGH:
        return {n: _weighed(party, circle, weights[list(wish["parties"][n])]) for n, party in parties.items()}
    said = {}
    for name, party in parties.items():
        sealed = {other: bytes.fromhex(box) for other, box in wish["own"][name].items()}
        said[name] = {n: hex(share) for n, share in party.reveal(circle, sealed, wish["survivors"]).items()}
    return said


def _weighed(party: Party, circle: Circle, weights: NDArray[np.int64]) -> str:
    """The sum of these weights, with the masks of their party."""
    word = np.array([weights.sum()]).view(np.uint64)
    party.mask(word, circle)
    return hex(word[0])


def circle_of(wish: Mapping[str, Any]) -> Circle:
    """The parties of a round, as a worker is told."""
    members = {name: Keys(bytes.fromhex(keys[0]), bytes.fromhex(keys[1])) for name, keys in wish["circle"].items()}
    return Circle(wish["attempt"], wish["threshold"], members)


def _secret(wish: Mapping[str, Any], name: str, seed: int, round: int) -> bytes:
    """What a site adds of its own to the message that it has got; in a simulation nobody has a secret."""
    if "secret" in wish:
        return bytes.fromhex(wish["secret"])
    return rng.generator(seed, "masks", round, int(name)).bytes(32)


@dataclass
class MaskedSums:
    """What a worker sends of its clients: their sums by party, each with its masks, added up."""

    wish: Mapping[str, Any]
    exact: ExactMean
    seed: int
    round: int
    sums: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    numbers: dict[str, list[Numbers]] = field(default_factory=dict)

    def add(self, client: int, values: NDArray[np.float32], weight: int, trained: Trained) -> None:
        """One client's model and numbers. Raises Diverged."""
        party = next(name for name, clients in self.wish["parties"].items() if client in clients)
        converted = self.exact.converted(Update(values, weight))
        if party in self.sums:
            self.sums[party] += converted
        else:
            self.sums[party] = converted
        reply = {name: Mean(value * weight, weight) for name, value in trained.reply.items()}
        self.numbers.setdefault(party, []).append(Numbers(weight, trained.steps, trained.metrics, reply))

    def said(self) -> Said:
        """Whose words the total has, and what numbers they are."""
        names = next((numbers[0].names for numbers in self.numbers.values()), [])
        return {"survivors": list(self.sums), "names": names}

    def total(self) -> NDArray[np.int64]:
        """All their words, added up; there must be some."""
        return reduce(np.add, map(self._masked, self.sums, repeat(circle_of(self.wish)))).view(np.int64)

    def _masked(self, name: str, circle: Circle) -> NDArray[np.uint64]:
        """What a party sends."""
        words = np.concatenate([self.sums[name], together(self.numbers[name]).to_words()]).view(np.uint64)
        Party(name, _secret(self.wish, name, self.seed, self.round), circle.attempt).mask(words, circle)
        return words


def together(parts: Sequence[Numbers]) -> Numbers:
    """The numbers of several clients as one."""
    return Numbers(
        sum(part.weight for part in parts),
        sum(part.steps for part in parts),
        merge(part.metrics for part in parts),
        merge(part.reply for part in parts),
    )


# The server

Ask = Callable[[dict[str, Any], Said], Said]  # a wish, what each party alone is told; what those say who answer


class MaskedRound:
    """One sum, from the parties' keys to their shares. `ask` is how they are asked."""

    def __init__(self, ask: Ask, parties: Parties) -> None:
        self._ask, self.parties, self.asked = ask, parties, len(parties)
        self.threshold = max(2, self.asked // 2 + 1)  # more than half, so that no two halves make two sums
        self.circle: Circle | None = None  # None: too few are there
        self.survivors: list[str] = []  # whose numbers are in the sum
        self.words = 0  # that each of them has sent
        self._form()

    def _form(self) -> None:
        """Have all who are there exchange shares; again without those who do not come to the end of it."""
        names = list(self.parties)
        while len(names) >= self.threshold:
            self.attempt = secrets.token_hex(16)
            self._members = self._say(KEYS, dict.fromkeys(names))
            enough = len(self._members) >= self.threshold
            self._sealed = self._say(SHARES, dict.fromkeys(self._members)) if enough else {}
            if len(self._sealed) == len(self._members):
                members = {name: Keys(*map(bytes.fromhex, keys[:2])) for name, keys in self._members.items()}
                self.circle = Circle(self.attempt, self.threshold, members)
                return
            names = [name for name in names if name in self._sealed]

    def has(self, client: int) -> bool:
        """Whether the client's party takes part."""
        return self.circle is not None and any(client in self.parties[name] for name in self.circle.members)

    def costs(self, answers: Mapping[int, Answer]) -> dict[int, Answer]:
        """The answers with the bytes of each party in that of its first client."""
        found, count = dict(answers), self.asked
        for name in self.circle.members if self.circle else ():
            first = min(self.parties[name])
            answer = found.get(first, Answer(first, Status.DROPPED))
            words = self.words if name in self.survivors else 0
            up, down = answer.bytes_up + bytes_up(count, words), bytes_down(count)
            found[first] = replace(answer, bytes_up=up, bytes_down=down)
        return found

    def wish(self, ask: str) -> dict[str, Any]:
        """What a worker is asked, but for whose clients; see `speak` and MaskedSums."""
        told = {"ask": ask, "attempt": self.attempt, "threshold": self.threshold}
        return told if ask == KEYS else {**told, "circle": self._members}

    def open(self, words: NDArray[np.int64], said: Sequence[Said], size: int) -> tuple[Update, Numbers] | None:
        """The sum of the models [size] and of the numbers; None where too few are in it. `words` loses its masks."""
        self.words, self.survivors = len(words), [name for part in said for name in part["survivors"]]
        if not self._unmasked(words.view(np.uint64)):
            return None
        names = {str(part["names"]): part["names"] for part in said if part["survivors"]}
        if len(names) > 1:
            raise RunError(f"masks: clients say different things of their turns: {' and '.join(names)}")
        numbers = Numbers.from_words(words[size:], *names.values())
        return Update(words[:size], numbers.weight), numbers

    def weigh(self) -> int:
        """What all clients weigh together. Raises RunError where a party does not say it."""
        whole = self.circle is not None and len(self.circle.members) == self.asked
        said = self._say(WEIGH, dict.fromkeys(self.parties)) if whole else {}
        self.survivors = list(said)
        try:
            words = np.array([sum(int(word, 16) for word in said.values()) % 2**64], np.uint64)
        except (ValueError, TypeError) as error:
            raise RunError(f"masks: what a party says of its weight is no number: {error}") from error
        if len(said) < self.asked or not self._unmasked(words):
            there = said if whole else self.circle.members if self.circle is not None else self.parties
            missing = ", ".join(sorted(self.parties.keys() - there.keys())) or "some"
            raise RunError(f"masks: to know what all clients weigh, all parties must answer; {missing} did not")
        return int(words[0])

    def _unmasked(self, words: NDArray[np.uint64]) -> bool:
        """Take the masks from the sum of the survivors; False where too few have answered. Raises RunError."""
        circle, survivors = self.circle, self.survivors
        if circle is None or len(survivors) < circle.threshold:
            note(f"{len(survivors)} of {self.asked} have answered, and masks hide sums of fewer than {self.threshold}")
            return False
        sealed = {name: {other: boxes[name] for other, boxes in self._sealed.items()} for name in survivors}
        revealed = self._say(REVEAL, sealed, survivors=survivors)
        if len(revealed) < circle.threshold:
            return False
        try:
            shares = {who: {name: int(share, 16) for name, share in told.items()} for who, told in revealed.items()}
            unmask(words, circle, survivors, shares)
        except (Unsafe, KeyError, ValueError) as error:
            raise RunError(f"masks: what parties have revealed does not fit: {error}") from error
        return True

    def _say(self, ask: str, own: Said, **more: Any) -> Said:
        said = self._ask({**self.wish(ask), **more}, own)
        return {name: said[name] for name in self.parties if name in said}
