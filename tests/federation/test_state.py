from pathlib import Path

import pytest
import torch

from fl_bench.storage.states import ClientStates


def state(value: float) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor([value])}


@pytest.fixture
def states(tmp_path: Path) -> ClientStates:
    states = ClientStates(tmp_path / "state")
    for round, clients in ((1, [3, 5]), (2, [3])):
        for client in clients:
            states.write(client, round, state(10 * round + client))
        states.commit(round, clients, clients)
    return states


def value(states: ClientStates, client: int, before: int) -> float | None:
    found = states.read(client, before)
    return float(found["x"]) if found else None


def test_a_client_has_the_state_of_its_own_last_turn(states: ClientStates) -> None:
    assert [value(states, client, before=3) for client in (3, 5, 7)] == [23, 15, None]


def test_a_round_that_is_repeated_sees_the_states_before_it(states: ClientStates) -> None:
    states.write(3, 3, state(99))
    states.write(5, 3, state(99))  # and then the run ends before the round does
    assert [value(states, client, before=3) for client in (3, 5)] == [23, 15]


def test_who_was_dropped_keeps_the_old_state(states: ClientStates) -> None:
    states.write(3, 3, state(33))
    states.write(5, 3, state(35))
    states.commit(3, trained=[3], drawn=[3, 5])
    assert [value(states, client, before=4) for client in (3, 5)] == [33, 15]


def test_one_version_of_each_stays_on_disk(states: ClientStates) -> None:
    files = {str(file.relative_to(states.folder)) for file in states.folder.rglob("*") if file.is_file()}
    assert files == {"3/2.safetensors", "5/1.safetensors"}


def test_a_write_that_was_cut_off_is_no_state(states: ClientStates, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(source: Path, target: Path) -> None:
        raise OSError("as when the disk is full")

    monkeypatch.setattr("fl_bench.storage.files.os.replace", crash)
    with pytest.raises(OSError, match="full"):
        states.write(3, 3, state(99))
    assert value(states, 3, before=4) == 23


def test_a_state_survives_to_the_bit(states: ClientStates) -> None:
    kept = {"a": torch.randn(5), "n": torch.tensor(0.1, dtype=torch.float64), "k": torch.arange(3)}
    states.write(1, 1, kept)
    found = states.read(1, 2)
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name]) and found[name].dtype == kept[name].dtype for name in kept)
