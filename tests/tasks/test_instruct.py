"""task=instruct: the loss of an answer, what travels, and what the mean of adapters is."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Launch, compose, digests, forked, long, table
from safetensors.numpy import load_file
from torch import Tensor, nn

from fl_bench import commands
from fl_bench.data import instructions
from fl_bench.ledger import chain
from fl_bench.models.causal import TINY, causal_model, with_adapters
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute
from fl_bench.tasks.instruct import Instruct

SMALL = ("task=instruct", "num_clients=3", "num_rounds=2", "local.steps=2", "evaluate.batch_size=128")
# rank x (in + out) of each layer with adapters: four of 96 x 96 and three of 96 x 256, in two blocks
BOTH = 2 * 8 * (4 * (96 + 96) + 3 * (96 + 256))
B_ONLY = 2 * 8 * (4 * 96 + 2 * 256 + 96)
ALL = 1024 * 96 + 2 * (4 * 96 * 96 + 3 * 96 * 256 + 2 * 96) + 96  # words, blocks with their norms, the last norm


def task(lora: Any = "both", **given: Any) -> Instruct:
    keys = {"path": None, "rank": 8, "alpha": 16, "targets": "all-linear", "prompt": "{instruction}", "max_length": 9}
    return Instruct(lora=lora, **(keys | given))


class Bigram(nn.Module):
    """Scores of the next token of three, which depend on the last one only."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, input_ids: Tensor) -> Any:
        return SimpleNamespace(logits=self.scores[input_ids])


# The next token is equally likely to be any; behind 1 it is 2 with a chance of 1/2, else 0 or 1 with 1/4 each.
CHANCES = Bigram(torch.tensor([[1.0, 1, 1], [1, 1, 2], [1, 1, 1]]).log())


def test_the_loss_of_an_example_is_the_mean_over_the_tokens_of_its_answer() -> None:
    tokens = torch.tensor([[0, 1, 2, 0], [2, 1, 2, -1]])
    batch = {"tokens": tokens, "prompt": torch.tensor([2, 1])}
    loss, metrics = task().objective(CHANCES, batch)
    # first row: 2 behind 1, and 0 behind 2; second row: 1 behind 2, and 2 behind 1
    assert loss.item() == pytest.approx((math.log(2) + math.log(3)) / 2)
    assert metrics["loss"].count == 2
    shorter, _ = task().objective(CHANCES, {**batch, "prompt": torch.tensor([3, 2])})
    assert shorter.item() == pytest.approx((math.log(3) + math.log(2)) / 2)
    alone, _ = task().objective(CHANCES, {"tokens": tokens[:1], "prompt": torch.tensor([3])})
    assert alone.item() == pytest.approx(math.log(3))


def test_perplexity_counts_each_token_of_all_answers() -> None:
    batch = {"tokens": torch.tensor([[0, 1, 2, 0], [0, 0, 1, -1]]), "prompt": torch.tensor([2, 2])}
    scores = task().score(CHANCES, batch)
    assert scores["perplexity"].count == 3
    assert scores["perplexity"].value == pytest.approx((2 * 3 * 3) ** (1 / 3))  # 1/2 once, 1/3 twice
    assert scores["loss"].value == pytest.approx((math.log(6) / 2 + math.log(3)) / 2)


def test_the_choice_that_is_likeliest_as_a_whole_counts() -> None:
    choices = torch.tensor([[0, -1, 2, -1, 1, -1, -1], [2, 0, -1, 0, 0, 0, 0]])
    batch = {"tokens": torch.tensor([[0, 1, 2], [0, 1, 2]]), "prompt": torch.tensor([2, 2]), "choices": choices}
    # behind 1: 2 is likelier than 0 and 1; and (2, 0), 1/2 x 1/3, than (0, 0, 0, 0), 1/4 x 1/27
    found = task().score(CHANCES, {**batch, "right": torch.tensor([1, 1])})["exact_match"]
    assert (found.value, found.count) == (0.5, 2)


@pytest.mark.parametrize(("lora", "count"), [("both", BOTH), ("b_only", B_ONLY), ("off", ALL)])
def test_what_is_trained_is_what_travels(lora: Any, count: int) -> None:
    made = with_adapters(causal_model(TINY), lora, 8, 16, "all-linear")
    trained = {name: p.numel() for name, p in made.named_parameters() if p.requires_grad}
    assert task(lora).shared(made) == list(trained)
    assert sum(trained.values()) == count
    assert all("lora_B" in name or (lora == "both" and "lora_A" in name) for name in trained if lora != "off")


def test_what_is_frozen_lies_in_the_file_that_all_processes_map() -> None:
    made = with_adapters(causal_model(TINY), "both", 8, 16, "all-linear")
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [
        range(*(int(end, 16) for end in line[0].split("-")))
        for line in lines
        if line[-1].endswith("llama_tiny/model.safetensors")
    ]
    frozen = [p for p in made.parameters() if not p.requires_grad]
    assert sum(p.numel() for p in frozen) == ALL
    assert all(any(p.data_ptr() in part for part in mapped) for p in frozen)


def test_only_the_layers_that_are_named_have_an_adapter() -> None:
    made = with_adapters(causal_model(TINY), "both", 4, 8, ["q_proj", "v_proj"])
    trained = [p for p in made.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 2 * 2 * 4 * (96 + 96)


def test_a_model_with_new_adapters_says_what_it_said_without() -> None:
    tokens = torch.tensor([[5, 300, 7]])
    with torch.no_grad():
        before = causal_model(TINY)(input_ids=tokens).logits
        after = with_adapters(causal_model(TINY), "both", 8, 16, "all-linear")(input_ids=tokens).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize(("lora", "least", "most"), [("b_only", 0.0, 1e-6), ("both", 1e-3, 0.5)])
def test_the_mean_of_b_is_that_of_the_products_where_a_is_shared_and_is_not_where_both_are_averaged(
    launch: Launch, lora: str, least: float, most: float
) -> None:
    run = launch(*SMALL, "num_rounds=1", f"model.lora={lora}", "ledger=signed", "weighting=uniform")
    model = load_file(run / "model.safetensors")
    layout = chain.read(run / "ledger", 0).header["layout"]  # names and shapes, in the order of a vector
    ends = np.cumsum([math.prod(shape) for _, shape in layout])
    clients = [
        {
            **model,
            **{name: part.reshape(shape) for (name, shape), part in zip(layout, np.split(sent, ends), strict=False)},
        }
        for sent in chain.models(run / "ledger", chain.read(run / "ledger", 1), int(ends[-1]))
    ]

    def products(of: dict[str, Any]) -> Any:
        adapters = [name for name, _ in layout if "lora_B" in name]
        made = [of[b].astype(np.float64) @ of[b.replace("lora_B", "lora_A")].astype(np.float64) for b in adapters]
        return np.concatenate([product.ravel() for product in made])

    exact = np.mean([products(client) for client in clients], axis=0)
    assert len(clients) == 3
    assert least <= np.linalg.norm(products(model) - exact) / np.linalg.norm(exact) <= most


@long
def test_a_is_drawn_from_the_seed_and_stays_with_b_only(launch: Launch) -> None:
    from safetensors.torch import load_file as tensors_in

    def a_of(folder: Path) -> Tensor:
        found = tensors_in(folder / "model.safetensors")
        return found["model.layers.0.self_attn.q_proj.lora_A.default.weight"]

    words = (*SMALL, "model.lora=b_only", "num_rounds=1")
    one, longer, other = launch(*words), launch(*words, "local.lr=0.1"), launch(*words, "seed=1")
    assert torch.equal(a_of(one), a_of(longer))
    assert not torch.equal(a_of(one), a_of(other))


def test_the_loss_falls_and_bytes_are_those_of_the_adapters(launch: Launch) -> None:
    rows = table(launch(*SMALL, "local.steps=6"), "metrics")
    losses = [float(row["test_loss"]) for row in rows]
    assert losses[0] > losses[1] > losses[2]
    assert losses[0] < math.log(1024)  # the model has learnt something before
    assert float(rows[0]["test_perplexity"]) > float(rows[2]["test_perplexity"])
    assert int(rows[1]["bytes_up"]) == 3 * 4 * BOTH


@long
def test_a_run_ends_before_it_sends_more_than_it_may(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    a_round = 2 * 3 * 4 * BOTH / 1e6
    rows = table(launch(*SMALL, "num_rounds=5", f"early_stop.max_megabytes={2.5 * a_round}"), "metrics")
    assert len(rows) == 3
    assert "round 2: another such would pass early_stop.max_megabytes=" in capsys.readouterr().err


@long
@pytest.mark.parametrize("lora", ["both", "b_only"])
def test_the_simulation_gives_the_same_bytes(launch: Launch, tmp_path: Path, lora: str) -> None:
    words = (*SMALL, f"model.lora={lora}", "figures=false")
    done = forked(*words, "engine=simulation", f"hydra.run.dir={tmp_path / 'simulated'}", cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "simulated") == digests(launch(*words))


@long
@pytest.mark.parametrize("lora", ["both", "b_only"])
def test_stacked_clients_have_the_numbers_of_one_at_a_time(launch: Launch, lora: str) -> None:
    words = (*SMALL, f"model.lora={lora}", "local.optimizer={name: SGD}", "local.lr=0.1")
    one, many = launch(*words), launch(*words, "engine.vectorize=3")
    ours, theirs = (load_file(run / "model.safetensors") for run in (one, many))
    assert any((ours[name] != theirs[name]).any() for name in ours)  # it was another program
    for name, values in ours.items():
        assert np.linalg.norm(theirs[name] - values) <= 1e-5 * np.linalg.norm(values), name


@long
def test_masks_and_a_break_change_nothing(launch: Launch, tmp_path: Path) -> None:
    words = (*SMALL, "strategy=fedadam", "strategy.eta=1e-3", "compression=topk")
    whole = launch(*words)
    masked = launch(*words, "secure_aggregation=masks")
    assert (masked / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    broken, scratch = launch(*words, "num_rounds=1"), tmp_path / "more"
    scratch.mkdir()
    assert execute(compose(*words), broken, scratch, Start.RESUME) == 0
    assert digests(broken) == digests(whole)


@long
def test_peft_reads_the_adapters_as_the_page_says(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import AutoPeftModelForCausalLM
    from safetensors.torch import load_file as tensors_in

    page = (ROOT / "docs" / "language.md").read_text()
    launch(*SMALL, "num_rounds=1").rename(tmp_path / "run")
    shutil.copytree(TINY, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    exec(page.split('title="adapter.py"\n')[1].split("```")[0], {})
    read = AutoPeftModelForCausalLM.from_pretrained("adapter")
    ours = with_adapters(causal_model(TINY), "both", 8, 16, "all-linear")
    ours.load_state_dict(tensors_in("run/model.safetensors"))
    tokens = torch.tensor([[5, 300, 7]])
    assert torch.equal(read(tokens).logits, ours(tokens).logits)


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


DOLLY = [
    {"instruction": f"Say {word}.", "context": "In a word." if n % 2 else "", "response": word, "category": "ab"[n % 2]}
    for n, word in enumerate(["one", "two", "three", "four"] * 10)
]


def test_files_in_the_form_of_dolly_and_of_alpaca(tmp_path: Path) -> None:
    keys = ("instruction", None, None, None, None)
    given = instructions.of_files("jsonl", str(write(tmp_path, DOLLY)), *keys)
    assert given.instructions[:2] == ["Say one.", "Say two.\nIn a word."]
    assert (given.answers[1], list(given.categories), given.y[:3].tolist()) == ("two", ["a", "b"], [0, 1, 0])
    assert given.is_test.sum() == 4  # every tenth of each category
    alpaca = [{"instruction": r["instruction"], "input": r["context"], "output": r["response"]} for r in DOLLY]
    same = instructions.of_files("jsonl", str(write(tmp_path, alpaca)), *keys)
    assert (same.instructions, same.answers, list(same.categories)) == (given.instructions, given.answers, ["all"])


def test_a_list_of_objects_is_read_and_the_only_row_of_a_category_is_to_train(tmp_path: Path) -> None:
    file = tmp_path / "alpaca_data.json"
    for lone in range(len(DOLLY)):
        rows = [{**row, "category": "lone"} if number == lone else row for number, row in enumerate(DOLLY)]
        file.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())  # with a byte order mark
        given = instructions.of_files("jsonl", str(file), "instruction", None, None, None, None)
        assert (len(given.answers), list(given.categories)) == (40, ["a", "b", "lone"])
        assert not given.is_test[lone]


def test_answers_that_are_cut_off_are_counted(
    launch: Launch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "response": "word " * 40} if number < 3 else row for number, row in enumerate(DOLLY)]
    file = write(tmp_path, rows)
    launch(*SMALL, "num_rounds=1", "data=instructions", f"data.root={file}", "task.max_length=48")
    assert "task.max_length=48: 3 of 40 answers are longer and are cut off there" in capfd.readouterr().err


def test_a_run_is_measured_on_instructions_of_other_categories(launch: Launch, tmp_path: Path) -> None:
    folder = launch(*SMALL, "num_rounds=1")
    assert commands.call("evaluate", [str(folder), "data=instructions", f"data.root={write(tmp_path, DOLLY)}"]) == 0
    assert float(table(folder, "evaluate")[0]["test_loss"]) > 0


def test_rows_without_a_text_are_left_out_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "response": " "} if number in (1, 2) else row for number, row in enumerate(DOLLY)]
    given = instructions.of_files("jsonl", str(write(tmp_path, rows)), "instruction", None, None, None, None)
    assert (len(given.answers), given.answers[:2], given.y[:2].tolist()) == (38, ["one", "four"], [0, 1])
    assert "data.answer=response: 2 rows have no text: left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        ({"response": ""}, (), "data.answer=response: no row has a text"),
        ({"response": 3}, (), "data.answer=response: must be a column of texts"),
        ({"options": ["five"]}, ("data.choices=options",), "data.choices=options: row 1 of "),
        ({}, ("data.choices=option",), "data.choices=option: the table has no such column"),
        ({}, ("data.answer=reply",), "data.answer=reply: the table has no such column"),
        ({}, ("task.prompt=Answer",), "task.prompt='Answer': must have {instruction} in it"),
        ({}, ("model.targets=[q_proj,q_prj]",), "model.targets: has q_prj; did you mean q_proj?"),
        ({}, ("model.targets=q_proj",), "model.targets=q_proj: "),
        ({}, ("model.alpha=0",), "model.alpha=0: must be a positive number"),
        ({}, ("model.path=/none",), "model.path=/none: cannot be loaded (there is no such folder)"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, refused: Callable[..., str], change: dict[str, Any], words: tuple[str, ...], said: str
) -> None:
    file = write(tmp_path, [row | change for row in DOLLY])
    assert said in refused(*SMALL, "data=instructions", f"data.root={file}", *words)


def test_own_instructions_with_choices_by_category(launch: Launch, tmp_path: Path) -> None:
    rows = [row | {"options": ["one", "two", "three", "four"]} for row in DOLLY]
    folder = launch(
        *SMALL, "data=instructions", f"data.root={write(tmp_path, rows)}", "data.choices=options",
        "partition=natural", "num_clients=auto",
    )  # fmt: skip
    assert len(table(folder, "partition")) == 2
    assert "test_exact_match" in table(folder, "metrics")[0]


def test_a_question_of_the_test_set_was_asked_in_training_in_other_words() -> None:
    given = instructions.generated()
    train = {text for text, is_test in zip(given.instructions, given.is_test, strict=True) if not is_test}
    assert not train & {text for text, is_test in zip(given.instructions, given.is_test, strict=True) if is_test}
    assert len(given.instructions) == 6 * 20 * 12
    assert all(len(set(row)) == 4 and answer in row for row, answer in zip(given.choices, given.answers, strict=True))
    assert np.bincount(given.y).tolist() == [240] * 6
