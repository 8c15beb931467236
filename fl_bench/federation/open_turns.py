"""Turns over several exchanges of a round: what each leaves in its worker's memory until it goes on."""

from typing import NamedTuple

from torch import Tensor

from fl_bench.federation.parameters import FlatModel, OpaqueModel
from fl_bench.strategies.turn import Turn


class Lost(Exception):
    """A turn is to go on of which this worker knows nothing: it has begun anew since."""


class _Left(NamedTuple):
    turn: Turn
    model: list[Tensor]  # as the turn has left it


class OpenTurns:
    """The turns that are not over yet, all of one model, which each has to itself while it lasts."""

    def __init__(self, flat: FlatModel | OpaqueModel) -> None:
        self._flat = flat
        self._left: dict[int, _Left] = {}  # by client

    def leave(self, turn: Turn) -> None:
        self._left[turn.client] = _Left(turn, self._flat.copy())

    def go_on(self, client: int, round: int) -> Turn:
        """The turn of this client, with the model as it was left. Raises Lost."""
        turn, model = self._left.pop(client, (None, []))
        if turn is None or turn.round != round:
            raise Lost(f"this worker does not know what it has done in round {round}")
        self._flat.put_back(model)
        return turn
