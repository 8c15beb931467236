"""Models for the next character: numbers of an alphabet int64 [B, length] to scores [B, length, classes].

What is said of a place depends on the characters up to it only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_bench.build import positive


class CharLstm(nn.Module):
    """What LSTM layers know after each character, by a linear layer."""

    def __init__(self, alphabet: int, num_classes: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(alphabet, embedding)
        self.memory = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, text: Tensor) -> Tensor:
        scores: Tensor = self.head(self.memory(self.characters(text))[0])
        return scores


def char_lstm(alphabet: int, num_classes: int, embedding: int, hidden: int, layers: int) -> nn.Module:
    """The LSTM of LEAF (Caldas et al. 2018, arXiv:1812.01097) and of McMahan et al. 2017, arXiv:1602.05629, section 3.

    819,920 parameters for 80 characters, vectors of 8 numbers and two layers of 256. LEAF's own has 817,872: torch adds
    two vectors to what each gate sees, TensorFlow one.

    Raises:
        ValueError: where a key is not positive.
    """
    positive(embedding=embedding, hidden=hidden, layers=layers)
    return CharLstm(alphabet, num_classes, embedding, hidden, layers)


class Block(nn.Module):
    """Attention to what came before and two linear layers, each behind a LayerNorm and added to what goes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rest = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (
            self.attention(self.norms[0](x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        seen = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        added: Tensor = self.rest(self.norms[1](x))
        return x + added


class CharTransformer(nn.Module):
    """Blocks over vectors of the characters and of their places, and a linear layer."""

    def __init__(self, alphabet: int, num_classes: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(alphabet, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, text: Tensor) -> Tensor:
        x = self.characters(text)
        x = x + _places(x.shape[1], x.shape[2]).to(x)
        scores: Tensor = self.head(self.norm(self.blocks(x)))
        return scores


def _places(length: int, width: int) -> Tensor:
    """A vector for each place [length, width]: waves of different lengths, Vaswani et al. 2017, section 3.5."""
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def char_transformer(alphabet: int, num_classes: int, width: int, heads: int, layers: int) -> nn.Module:
    """A small decoder (Vaswani et al. 2017, arXiv:1706.03762) with its norms in front, as GPT-2 has them.

    417,360 parameters for 80 characters, two layers and vectors of 128 numbers.

    Raises:
        ValueError: where a key is not positive, `width` is odd, or `heads` does not divide it.
    """
    positive(width=width, heads=heads, layers=layers)
    if width % 2 or width % heads:
        raise ValueError(f"width={width}: must be even, and a multiple of heads={heads}")
    return CharTransformer(alphabet, num_classes, width, heads, layers)
