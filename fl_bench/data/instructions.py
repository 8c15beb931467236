"""Instructions with their answers, by category: generated ones, and those of a file of one's own."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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


# By category: how one can ask about {0}, how the answer {1} is put, and the pairs.
GENERATED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "opposites": (
        ("What is the opposite of {0}?", "Name the opposite of {0}.", "If it is not {0}, what is it?",
         "Give me a word that means the reverse of {0}.", "Tell me what is the contrary of {0}."),
        "It is {1}.",
        "hot cold, big small, up down, early late, fast slow, light dark, wet dry, old new, rich poor, hard soft,"
        " open shut, full empty, happy sad, loud quiet, near far, strong weak, thick thin, right wrong",
    ),
    "young": (
        ("What is a young {0} called?", "How do you call the child of a {0}?", "Name the young of a {0}.",
         "A {0} has had a little one. What is it?", "Which word is used for a baby {0}?"),
        "That is a {1}.",
        "dog puppy, cat kitten, cow calf, horse foal, sheep lamb, pig piglet, hen chick, duck duckling, goose gosling,"
        " bear cub, frog tadpole, goat kid, swan cygnet, deer fawn, kangaroo joey, eagle eaglet, owl owlet, fish fry",
    ),
    "sounds": (
        ("What does a {0} say?", "Which sound does a {0} make?", "I hear a {0}. What do I hear?",
         "Write down the noise of a {0}.", "How does a {0} sound?"),
        "You hear {1}.",
        "cow moo, dog woof, cat meow, duck quack, sheep baa, pig oink, bee buzz, owl hoot, snake hiss, lion roar,"
        " mouse squeak, crow caw, frog ribbit, horse neigh, hen cluck, clock tick, bell dong, drum boom",
    ),
    "capitals": (
        ("What is the capital of {0}?", "Name the capital of {0}.", "Which city is the capital of {0}?",
         "I travel to {0} and want to see its capital. Where do I go?", "From which city is {0} governed?"),
        "The city is {1}.",
        "France Paris, Italy Rome, Spain Madrid, Greece Athens, Norway Oslo, Sweden Stockholm, Austria Vienna,"
        " Poland Warsaw, Portugal Lisbon, Ireland Dublin, Egypt Cairo, Japan Tokyo, Cuba Havana, Peru Lima,"
        " Kenya Nairobi, Finland Helsinki, Hungary Budapest, Denmark Copenhagen",
    ),
    "past": (
        ("What is the past tense of {0}?", "Put {0} into the past.", "Today I {0}. And what did I do yesterday?",
         "How is {0} written in the past tense?", "Change the verb {0} to the past."),
        "Yesterday I {1}.",
        "go went, see saw, eat ate, sing sang, run ran, take took, give gave, write wrote, drink drank, swim swam,"
        " know knew, fall fell, buy bought, teach taught, think thought, find found, drive drove, speak spoke",
    ),
    "colours": (
        ("What colour is {0}?", "Which colour does {0} have?", "Name the colour of {0}.",
         "I paint {0}. Which colour do I need?", "In which colour do children draw {0}?"),
        "The colour is {1}.",
        "grass green, snow white, coal black, blood red, chocolate brown, gold yellow, sea blue, carrot orange,"
        " elephant grey, flamingo pink, lavender purple, sunshine golden",
    ),
}  # fmt: skip
MANNERS = ("", "Please answer. ", "A child asks: ", "Quick question. ")  # what may stand before a question
NUM_CHOICES = 4
TEST_SHARE = 0.2


def generated() -> Instructions:
    """Questions of six categories, each asked in 20 ways, with four answers to choose from; a random fifth is to test.

    So what is asked in the test set has been asked in training, in other words.
    """
    rng = np.random.default_rng(0)
    found: list[tuple[str, str, int, list[str]]] = []
    for category, (questions, answer, listed) in enumerate(GENERATED.values()):
        pairs = [pair.split() for pair in listed.split(",")]
        told = [answer.format(*pair) for pair in pairs]
        for number, pair in enumerate(pairs):
            for question in questions:
                for manner in MANNERS:
                    others = rng.choice(np.delete(np.arange(len(pairs)), number), NUM_CHOICES - 1, replace=False)
                    choices = [told[k] for k in rng.permutation([number, *others])]
                    found.append((manner + question.format(*pair), told[number], category, choices))
    asked, answers, y, choices = zip(*found, strict=True)
    is_test = rng.random(len(found)) < TEST_SHARE
    return Instructions(asked, answers, np.array(y), list(GENERATED), is_test, choices)
