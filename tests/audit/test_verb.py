"""What `fl-bench audit` says of runs, and what it refuses."""

import json
from pathlib import Path

import pytest
from conftest import Launch, long, table

from fl_bench import commands
from fl_bench.errors import ConfigError

SMALL = ("data=synthetic", "data.num_samples=200", "num_clients=4", "num_rounds=2", "local.steps=1")
ONE = (*SMALL, "local.batch_size=1")
QUICK = ("--iterations", "2")


def audit(run: Path, *words: str) -> dict[str, float]:
    """The values of audit.csv by their names."""
    assert commands.call("audit", [str(run), *QUICK, *words]) == 0
    return {f"{row['what']} {row['number']}": float(row["value"]) for row in table(run / "audit", "audit")}


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_one_example_is_seen_to_the_last_pixel(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    run = launch(*ONE)
    before = content(run)
    found = audit(run, "--round", "2", "--client", "3")
    assert "round 2: the server sees the update of client 3\n" in capsys.readouterr().out
    assert found["inversion divided_psnr"] > 60
    assert found["inversion divided_ssim"] > 0.999
    assert found["inversion guess_psnr"] < 30
    assert found["labels distance"] < 0.1 < found["labels guess_distance"]
    assert 0 <= found["membership tpr_at_fpr_0.01"] <= 1
    written = content(run)
    assert before.items() < written.items()
    assert {name for name in written if name not in before} == {
        "audit/audit.csv", "audit/labels.csv", "audit/inversion.png", "audit/inversion.pdf", "audit/labels.png",
        "audit/labels.pdf", "audit/membership.png", "audit/membership.pdf",
    }  # fmt: skip
    again = table(run / "audit", "audit")
    audit(run, "--round", "2", "--client", "3")
    assert table(run / "audit", "audit") == again


@long
def test_the_search_goes_on_from_where_it_began(launch: Launch) -> None:
    run = launch(*ONE)
    few, many = (audit(run, "--what", "inversion", "--iterations", count) for count in ("2", "60"))
    assert few["inversion searched_psnr"] + 5 < many["inversion searched_psnr"]


@pytest.mark.parametrize(
    ("words", "given", "said", "exact"),
    [
        (
            ("secure_aggregation=masks",),
            (),
            "masks show the server only the sum of the updates of clients 0, 1, 2, 3",
            False,
        ),
        (
            ("strategy=dp_client_fixed",),
            (),
            "the server sees the update of client 0, to which it adds noise itself",
            True,
        ),
        (("attack=sign_flip", "attack.clients=[0]"), (), "the server sees the update of client 1", True),
        ((), ("--by", "client"), "a client sees what the server has made of the updates of clients 0, 1, 2, 3", False),
    ],
)
def test_who_sees_what(
    words: tuple[str, ...],
    given: tuple[str, ...],
    said: str,
    exact: bool,
    launch: Launch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One example is seen as it was, and of four together none is."""
    found = audit(launch(*ONE, *words), "--what", "inversion", *given)
    assert f"round 1: {said}\n" in capsys.readouterr().out
    assert (found["inversion divided_psnr"] > 60) == exact


@long
def test_what_compression_leaves(launch: Launch) -> None:
    found = audit(launch(*ONE, "compression=topk", "compression.up.fraction=0.01"), "--what", "inversion")
    assert found["inversion divided_psnr"] < 30


def test_what_there_is_not(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    tables = launch("task=tabular", "num_rounds=1", "num_clients=4")
    capsys.readouterr()
    assert {name.split()[0] for name in audit(tables)} == {"labels", "membership"}
    assert "note: inversion: is of images, and task Tabular has none" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"^inversion: is of images, and task Tabular has none$"):
        audit(tables, "--what", "inversion")
    with pytest.raises(ConfigError, match=r"^strategy: 1\.bias stays with each client, and nobody sees a whole model$"):
        audit(launch(*SMALL, "strategy=fedper"))


REFUSED = (
    (("--round", "3"), "--round 3: must be from 1 to 2, as the run has 2 rounds"),
    (("--round", "0"), "--round 0: must be from 1 to 2, as the run has 2 rounds"),
    (("--client", "9"), "--client 9: does not train in round 1; those who do: [0, 1, 2, 3]"),
    (("--client", "1"), "--client 1: has no examples, or is malicious"),
    (("--client", "1", "--by", "client"), "--client 1: other clients see only what the server makes of all; leave"),
    (("--what", "image"), "--what image: known: canaries, inversion, labels, leakage, membership"),
    (("--images", "0"), "--images 0: must be 1 or more"),
    (("--iterations", "0"), "--iterations 0: must be 1 or more"),
    (("--out", "nowhere/out"), "--out nowhere/out: must be a folder, in one that is there"),
)


def test_what_it_refuses(launch: Launch) -> None:
    run = launch(*ONE, "attack=sign_flip", "attack.clients=[1]")
    for given, why in REFUSED:
        with pytest.raises(ConfigError) as error:
            audit(run, *given)
        assert str(error.value).startswith(why)
    assert not (run / "audit").exists()


def test_a_run_that_has_not_ended(launch: Launch) -> None:
    run = launch(*ONE)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    with pytest.raises(ConfigError, match=rf"^{run}: is interrupted, not done; fl-bench resume ends it$"):
        audit(run)
