"""Instructions with their answers, by category: generated ones, those of one's own files, and what roles say."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench.data import shakespeare
from fl_bench.data.files import groups, read_files, require_columns
from fl_bench.data.tables import test_rows
from fl_bench.errors import ConfigError, note


class Instructions(NamedTuple):
    """Instructions [N] with their answers [N], the category `y` [N] of each, and whether it is for the test set [N].

    `choices` [N] are the answers of which one is right, those of each row; empty where the data have none.
    """

    instructions: Sequence[str]
    answers: Sequence[str]
    y: NDArray[np.int64]
    categories: Sequence[str]
    is_test: NDArray[np.bool_]
    choices: Sequence[Sequence[str]] = ()


# By category: how one can ask about {0}, how an answer {0} is put, and what is asked about, by its answer.
GENERATED: dict[str, tuple[tuple[str, ...], str, dict[str, str]]] = {
    "kinds": (
        ("What kind of thing is a {0}?", "A {0}, what is that?", "Say what sort of thing a {0} is."),
        "It is {0}.",
        {"an animal": "dog horse mouse spider goose", "a plant": "rose oak tulip cactus fern",
         "a tool": "hammer saw spade drill axe", "a meal": "soup pizza salad omelette curry"},
    ),
    "places": (
        ("Where does a {0} work?", "I look for a {0}. Where do I go?", "Name the place where one meets a {0}."),
        "Go to the {0}.",
        {"school": "teacher pupil tutor principal janitor", "hospital": "doctor nurse surgeon midwife patient",
         "farm": "farmer shepherd milker ploughman reaper", "theatre": "actor singer dancer clown usher"},
    ),
    "continents": (
        ("On which continent is {0}?", "I fly to {0}. Where will I land?", "Name the continent of {0}."),
        "That is in {0}.",
        {"Europe": "France Poland Norway Greece Spain", "Asia": "Japan India Nepal Thailand Mongolia",
         "Africa": "Kenya Egypt Ghana Angola Mali", "America": "Canada Peru Cuba Brazil Chile"},
    ),
    "seasons": (
        ("In which season is {0}?", "When is it time for {0}?", "Name the season of {0}."),
        "One has it in {0}.",
        {"spring": "April lambs seedlings Easter blossoms", "summer": "July swimming sunburn barefoot icecream",
         "autumn": "October harvest mushrooms chestnuts Halloween", "winter": "January snow skating Christmas frost"},
    ),
    "materials": (
        ("What is a {0} made of?", "Of what does one make a {0}?", "I need a new {0}. What is it made from?"),
        "One takes {0}.",
        {"glass": "window bottle mirror lens bulb", "wood": "table fence barrel violin pencil",
         "metal": "key coin sword bell anchor", "cloth": "shirt flag towel curtain scarf"},
    ),
    "senses": (
        ("With what does one notice a {0}?", "What tells me that there is a {0}?", "Which part of me finds a {0}?"),
        "Use your {0}.",
        {"eyes": "rainbow picture shadow colour star", "ears": "melody whisper thunder echo siren",
         "nose": "perfume stench smoke scent fume", "skin": "breeze itch tickle warmth sting"},
    ),
}  # fmt: skip
MANNERS = ("", "Please answer. ", "A child asks: ", "Quick question. ")  # what may stand before a question
TEST_SHARE = 0.2
PIECE = 200  # characters of a role's text that are one row


def generated() -> Instructions:
    """Questions of six categories about 20 things each, asked in 12 ways; a random fifth is to test.

    What is asked there has been asked in training, in other words. The four choices are the right answer, another of
    its category, and two of other categories.
    """
    rng = np.random.default_rng(0)
    answers = [[answer.format(right) for right in things] for _, answer, things in GENERATED.values()]
    found = []
    for category, (questions, _, things) in enumerate(GENERATED.values()):
        elsewhere = [other for row in answers if row is not answers[category] for other in row]
        for answer, listed in zip(answers[category], things.values(), strict=True):
            near = [other for other in answers[category] if other != answer]
            for thing, question, manner in product(listed.split(), questions, MANNERS):
                others = [rng.choice(near), *rng.choice(elsewhere, 2, replace=False)]
                choices = [str(choice) for choice in rng.permutation([answer, *others])]
                found.append((manner + question.format(thing), answer, category, choices))
    asked, told, y, offered = zip(*found, strict=True)
    is_test = rng.random(len(found)) < TEST_SHARE
    return Instructions(asked, told, np.array(y), list(GENERATED), is_test, offered)


def of_files(
    kind: str,
    root: str,
    instruction: str,
    context: str | None,
    answer: str | None,
    choices: str | None,
    client: str | None,
) -> Instructions:
    """The rows of the file `root`, or of all files *.`kind` in that folder; those of test.`kind` are the test set.

    The other arguments are names of columns. Where `context`, `answer` and `client` are None, they are Dolly's or
    Alpaca's, if there. Rows without an instruction or an answer are left out, with a note. A category is a value of
    column `client`; without it, all are of one.

    Raises:
        ConfigError: where a column is missing or has no text at all, or no choice is the answer.
    """
    table, is_test = read_files(kind, root, {})
    context, answer, client = (
        chosen or next((name for name in usual if name in table.columns), None)
        for chosen, usual in (
            (context, ("context", "input")),
            (answer, ("response", "output")),
            (client, ("category",)),
        )
    )
    if answer is None:
        raise ConfigError("data.answer=null: there is no column response or output; name the one with the answers")
    wanted = {"instruction": instruction, "answer": answer, "context": context, "choices": choices, "client": client}
    for key, name in wanted.items():
        require_columns(f"data.{key}", [] if name is None else [name], table)
    texts = {key: table[name].fillna("") for key, name in wanted.items() if name and key not in ("choices", "client")}
    for key, column in texts.items():
        if not all(isinstance(text, str) for text in column):
            raise ConfigError(f"data.{key}={wanted[key]}: must be a column of texts, and has {column.dtype}")
    for key in ("instruction", "answer"):  # some of Alpaca's have none
        full = texts[key].str.strip() != ""
        if not full.any():
            raise ConfigError(f"data.{key}={wanted[key]}: no row has a text")
        if not full.all():
            note(f"data.{key}={wanted[key]}: {(~full).sum()} rows have no text: left out")
        table, texts = table[full], {name: column[full] for name, column in texts.items()}
        is_test = None if is_test is None else is_test[full]
    asked = [
        f"{text}\n{more}" if more else text
        for text, more in zip(texts["instruction"], texts.get("context", [""] * len(table)), strict=True)
    ]
    given = (
        [] if choices is None else [list(row) if isinstance(row, list | np.ndarray) else [] for row in table[choices]]
    )
    for row, right, others in zip(table.index, texts["answer"], given, strict=False):
        if right not in others:
            raise ConfigError(f"data.choices={choices}: row {row + 1} of {root} has not its answer in a list of them")
    numbers, names = (
        groups(f"data.client={client}", table[client])
        if client is not None
        else (np.zeros(len(table), np.int64), ["all"])
    )
    own = is_test is not None
    is_test = test_rows(f"data.root={root}", numbers, None, None, is_test)
    if not own:  # the only row of a category stays for training
        is_test &= np.isin(numbers, numbers[~is_test])
    return Instructions(asked, list(texts["answer"]), numbers, names, is_test, given)


def of_roles(min_characters: int) -> Instructions:
    """What Shakespeare's roles say that say so much, in pieces of PIECE characters, without instructions.

    A category is a role; the last fifth of its pieces, one at least, is to test.

    Raises:
        ConfigError: where no role says so much.
    """
    found: list[tuple[str, int, bool]] = []
    names: list[str] = []
    for name, speeches in shakespeare.said(min_characters).items():
        text = "\n\n".join(speeches)
        pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
        if len(pieces) > 1:
            first_test = len(pieces) - max(1, len(pieces) // 5)
            found += [(piece, len(names), number >= first_test) for number, piece in enumerate(pieces)]
            names.append(name)
    if not found:
        raise ConfigError(f"data.min_characters={min_characters}: no role says so much")
    texts, y, is_test = zip(*found, strict=True)
    return Instructions([""] * len(texts), texts, np.array(y), names, np.array(is_test))
