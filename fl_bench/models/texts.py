"""Models for texts, words as numbers int64 [B, length], PADDING behind their ends."""

from torch import Tensor, nn

from fl_bench.build import positive
from fl_bench.data.arrays import PADDING


class Lstm(nn.Module):
    """What LSTM layers know after the last word, by a linear layer: [B, length] to [B, classes]."""

    def __init__(self, vocabulary: int, num_classes: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, embedding)
        self.memory = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.memory(self.words(tokens.clamp(min=0)))
        last = (tokens != PADDING).sum(dim=1) - 1  # it reads from left to right: padding comes too late to matter
        scores: Tensor = self.head(states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0])
        return scores


def lstm(vocabulary: int, num_classes: int, embedding: int, hidden: int, layers: int) -> nn.Module:
    """Word vectors and LSTM layers (Hochreiter and Schmidhuber 1997), see `Lstm`.

    97,410 parameters for 1,000 words, two classes and one layer, vectors and layer of 64 numbers.

    Raises:
        ValueError: where a key is not positive.
    """
    positive(embedding=embedding, hidden=hidden, layers=layers)
    return Lstm(vocabulary, num_classes, embedding, hidden, layers)


class Bag(nn.Module):
    """The mean of the word vectors, by a linear layer: [B, length] to [B, classes]."""

    def __init__(self, vocabulary: int, num_classes: int, embedding: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, embedding)
        self.head = nn.Linear(embedding, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        inside = (tokens != PADDING)[..., None]
        total = (self.words(tokens.clamp(min=0)) * inside).sum(dim=1)
        scores: Tensor = self.head(total / inside.sum(dim=1))
        return scores


def fasttext(vocabulary: int, num_classes: int, embedding: int) -> nn.Module:
    """A bag of word vectors (Joulin et al. 2017, arXiv:1607.01759), without that paper's pairs of words; see `Bag`.

    64,130 parameters for 1,000 words, two classes and vectors of 64 numbers.

    Raises:
        ValueError: where `embedding` is not positive.
    """
    positive(embedding=embedding)
    return Bag(vocabulary, num_classes, embedding)
