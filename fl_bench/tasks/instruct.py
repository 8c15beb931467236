"""Instructions answered by a language model, by low-rank adapters (FedIT: Zhang et al. 2023, arXiv:2305.05644)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from fl_bench.build import positive
from fl_bench.data import instructions
from fl_bench.data.arrays import PADDING, FederatedData, Ragged, writing_into
from fl_bench.data.instructions import Instructions
from fl_bench.errors import ConfigError, note
from fl_bench.metrics import Mean, Metric, Summand
from fl_bench.models.causal import TINY, Lora, causal_model, folder_of, with_adapters
from fl_bench.models.pretrained import PRETRAINED, from_pretrained, transformers_quietly
from fl_bench.tallies import KINDS, Tally
from fl_bench.tasks.base import Batch, Metrics, Task, batch_mean


class Instruct(Task):
    """A row is an instruction and its answer: "tokens" (ragged) of both, "prompt", how many of them stand before the
    answer, and "y", its category.

    Where the data have choices, also "choices" (ragged), the tokens of each with PADDING between, and "right", the
    number of the right one. The loss of an example is the mean over the tokens of its answer, that of a batch the mean
    of its examples'. Only what is trained travels: the adapters, or with `lora=off` all of the model.
    """

    metrics = (*Task.metrics, KINDS["perplexity"].metric, Metric("exact_match", better="higher"))
    tells_classes = False  # categories say whose a row is
    not_loaded = ("lora", "rank", "alpha", "targets")

    def __init__(
        self,
        path: str | None,
        lora: Lora,
        rank: int,
        alpha: float,
        targets: str | list[str],
        prompt: str,
        max_length: int,
    ) -> None:
        positive(rank=rank, max_length=max_length)
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha={alpha}: must be a positive number")
        if "{instruction}" not in prompt:
            raise ValueError(f"prompt={prompt!r}: must have {{instruction}} in it")
        self.path, self.prompt, self.max_length = path or str(TINY), prompt, max_length
        self.lora: Lora = lora
        self.rank, self.alpha, self.targets = rank, alpha, targets

    def model(self, data: FederatedData) -> nn.Module:
        return with_adapters(causal_model(data.folder / PRETRAINED), self.lora, self.rank, self.alpha, self.targets)

    def shared(self, model: nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def objective(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        return self._of_examples(*self._losses(model, batch["tokens"], batch["prompt"]))

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Summand]:
        """Also the perplexity of the answers' tokens, and how often the right choice is the likeliest."""
        losses, inside = self._losses(model, batch["tokens"], batch["prompt"])
        _, metrics = self._of_examples(losses, inside)
        perplexity = Tally.of_losses(losses[inside].detach().double().cpu().numpy())
        found: dict[str, Summand] = {**metrics, "perplexity": perplexity}
        if "choices" in batch:
            right = self._likeliest(model, batch) == batch["right"].cpu()
            found["exact_match"] = Mean(right.sum(), len(right))
        return found

    def load_embedded(self, folder: Path) -> FederatedData:
        """Generated questions with their answers, of six categories."""
        return self._tokenized(folder, instructions.generated())

    def load_instructions(
        self,
        folder: Path,
        format: Literal["jsonl", "parquet"],
        root: str,
        instruction: str,
        context: str | None,
        answer: str | None,
        choices: str | None,
        client: str | None,
    ) -> FederatedData:
        """Instructions in files of one's own."""
        return self._tokenized(
            folder, instructions.of_files(format, root, instruction, context, answer, choices, client)
        )

    def load_shakespeare(self, folder: Path, min_characters: int) -> FederatedData:
        """What Shakespeare's roles say, without instructions."""
        return self._tokenized(folder, instructions.of_roles(min_characters))

    @torch.no_grad()
    def figures(self, model: Any, data: FederatedData, folder: Path) -> None:
        from fl_bench.results import pictures

        tokenizer = from_pretrained(transformers_quietly().AutoTokenizer, data.folder / PRETRAINED)
        lines = []
        for row in np.linspace(0, data.num_tests - 1, min(12, data.num_tests)).astype(int)[:, None]:
            tokens, length = torch.from_numpy(data.test["tokens"][row]), max(1, int(data.test["prompt"][row][0]))
            asked, right = tokens[:, :length].to(model.device), tokens[0, length:]
            end = tokenizer.eos_token_id
            made = model.generate(
                asked, attention_mask=torch.ones_like(asked), max_new_tokens=len(right), do_sample=False,
                pad_token_id=end, eos_token_id=end,
            )[0, length:]  # fmt: skip
            lines.append([tokenizer.decode(part, skip_special_tokens=True) for part in (asked[0], right, made)])
        pictures.answers(folder, lines)

    @staticmethod
    def _losses(model: Any, tokens: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each token but the first [B, L - 1], 0 outside of the answer, and whether it is inside of it.

        Padding stands behind and is never looked back at, so that it needs no mask.
        """
        scores = model(input_ids=tokens.clamp(min=0)).logits[:, :-1]
        targets = tokens[:, 1:]
        places = torch.arange(1, tokens.shape[1], device=tokens.device)
        inside = (targets != PADDING) & (places >= prompt[:, None])
        losses = functional.cross_entropy(scores.transpose(1, 2), targets.clamp(min=0), reduction="none")
        return losses * inside, inside

    @staticmethod
    def _of_examples(losses: Tensor, inside: Tensor) -> tuple[Tensor, Metrics]:
        """The mean over the examples of the mean over the tokens of each one's answer."""
        loss = (losses.sum(dim=1) / inside.sum(dim=1)).mean()
        return loss, {"loss": batch_mean(loss, len(losses))}

    def _likeliest(self, model: nn.Module, batch: Batch) -> Tensor:
        """The number [B] of the choice that is likeliest as a whole behind its row's prompt."""
        rows, owners = [], []
        for owner, (tokens, length, choices) in enumerate(
            zip(batch["tokens"], batch["prompt"], batch["choices"], strict=True)
        ):
            ends = [*(choices == PADDING).nonzero()[:, 0].tolist(), len(choices)]
            starts = [0, *(end + 1 for end in ends[:-1])]
            told = [choices[start:end] for start, end in zip(starts, ends, strict=True) if start < end]
            rows += [torch.cat([tokens[:length], choice]) for choice in told]
            owners += [owner] * len(told)
        owned = torch.tensor(owners)
        padded = pad_sequence(rows, batch_first=True, padding_value=PADDING)
        losses, _ = self._losses(model, padded, batch["prompt"][owned.to(padded.device)])
        total = losses.sum(dim=1).cpu()
        return torch.stack([total[owned == owner].argmin() for owner in range(len(batch["tokens"]))])

    def _tokenized(self, folder: Path, given: Instructions) -> FederatedData:
        """Instructions and answers as columns; the model stays where it is, behind a link in `folder`."""
        source = folder_of(self.path)
        with writing_into(folder):
            (folder / PRETRAINED).symlink_to(source.resolve())
        tokenizer = from_pretrained(transformers_quietly().AutoTokenizer, source)
        if (end := tokenizer.eos_token_id) is None:
            raise ConfigError(f"model.path={self.path}: its tokenizer has no eos_token, with which an answer ends")

        def numbers(texts: Sequence[str]) -> list[list[int]]:
            found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
            return found

        begin = [token for token in tokenizer("")["input_ids"] if token == tokenizer.bos_token_id]
        prompts = [begin + row for row in numbers([self._asked(text) for text in given.instructions])]
        tokens = [[*p, *a, end][: self.max_length] for p, a in zip(prompts, numbers(given.answers), strict=True)]
        fits = np.array([max(1, len(p)) < len(row) for p, row in zip(prompts, tokens, strict=True)])
        if not fits.all():
            what = f"{(~fits).sum()} of {len(fits)} instructions leave no room for an answer"
            note(f"task.max_length={self.max_length}: {what}: left out")
        if cut := sum(row[-1] != end for row in tokens):
            note(f"task.max_length={self.max_length}: {cut} of {len(tokens)} answers are longer and are cut off there")
        if not (fits & given.is_test).any() or not (fits & ~given.is_test).any():
            wish = "leaves no instruction to train or none to test; raise it"
            raise ConfigError(f"task.max_length={self.max_length}: {wish}")
        columns: dict[str, Any] = {
            "tokens": tokens, "prompt": [len(p) for p in prompts], "y": given.y,
            **({"choices": [_joined([[*choice, end] for choice in numbers(row)]) for row in given.choices],
                "right": [row.index(answer) for row, answer in zip(given.choices, given.answers, strict=True)]}
               if given.choices else {}),
        }  # fmt: skip

        def rows(of: NDArray[np.bool_]) -> dict[str, Any]:
            chosen = np.flatnonzero(of & fits)
            return {
                name: Ragged.of([column[row] for row in chosen])
                if name in ("tokens", "choices")
                else np.array(column, np.int64)[chosen]
                for name, column in columns.items()
            }

        train, test = rows(~given.is_test), rows(given.is_test)
        train["source"] = train["y"]
        return FederatedData(train, test, tuple(given.categories), sources=tuple(given.categories))

    def _asked(self, instruction: str) -> str:
        """What stands before an answer; nothing where there is no instruction."""
        return self.prompt.replace("{instruction}", instruction) if instruction else ""


def _joined(rows: Sequence[Sequence[int]]) -> list[int]:
    """The rows one after another, with PADDING between.

    Examples:
        >>> _joined([[5, 6], [7]])
        [5, 6, -1, 7]
    """
    return [token for row in rows for token in (*row, PADDING)][:-1]
