"""Texts, by their tokens: what tasks with such examples share."""

import json
from pathlib import Path

from fl_bench.data.texts import numbered
from fl_bench.models.pretrained import PRETRAINED, from_pretrained, transformers_quietly
from fl_bench.tasks.base import Classifier

VOCABULARY = "vocabulary.json"  # beside the data: the words by their number


class TextClassifier(Classifier):
    """Tokens as column "tokens" (ragged), labels as column "y"; a token is a word, or one of a pretrained tokenizer."""

    max_length: int  # of a text, tokens

    def numbers_of(self, text: str, folder: Path) -> list[int]:
        """The numbers of a text's tokens, without those that begin or end every text; `folder` is that of the data."""
        if (words := folder / VOCABULARY).exists():
            numbers: list[int] = numbered([text], json.loads(words.read_text()), self.max_length).flat.tolist()
            return numbers
        tokenizer = from_pretrained(transformers_quietly().AutoTokenizer, folder / PRETRAINED)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
