"""Generated speech: each speaker has words and habits of its own, so that what comes next depends on who speaks."""

from collections.abc import Sequence

import numpy as np


def _words(text: str) -> list[str]:
    return text.split()


CHARACTERS = 20_000  # that each speaker says, at least
PLACES = _words("market harbour chapel tower garden mill bridge tavern forest palace river gate")
THINGS = _words("lantern sword letter crown bell barrel mirror ladder feather candle anchor purse")
DEEDS = _words("carries hides paints steals mends sells guards forgets lifts follows breaks praises")
KINDS = _words("silver broken ancient quiet crooked golden heavy hollow little noble rusty secret")
GREETINGS = _words("Alas Hark Indeed Marry Nay Pray Sir Soft Truly Well")  # one of each speaker
ENDS = [".", ".", "!", "?", ", my lord.", ", I say.", "; so be it.", ", good friend!", ", by heaven.", "..."]


def speeches() -> dict[str, str]:
    """By speaker: sentences of one small grammar, with the third of its words and the two endings that it prefers."""
    rng = np.random.default_rng(0)
    return {name.lower(): _speech(name, ENDS[number:] + ENDS[:number], rng) for number, name in enumerate(GREETINGS)}


def _speech(greeting: str, ends: Sequence[str], rng: np.random.Generator) -> str:
    places, things, deeds, kinds = (rng.choice(words, 4, replace=False) for words in (PLACES, THINGS, DEEDS, KINDS))
    habits = rng.random(2)  # how often it greets, and how often it names a place
    sentences: list[str] = []
    size = 0
    while size < CHARACTERS:
        subject, thing = (f"the {rng.choice(kinds)} {rng.choice(things)}" for _ in range(2))
        sentence = f"{subject} {rng.choice(deeds)} {thing}"
        if rng.random() < habits[1]:
            sentence += f" at the {rng.choice(places)}"
        begun = f"{greeting}, {sentence}" if rng.random() < habits[0] else sentence.capitalize()
        sentences.append(begun + rng.choice(ends[:2]))
        size += len(sentences[-1]) + 1
    return " ".join(sentences)
