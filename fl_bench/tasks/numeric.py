"""Examples that are numbers already, rows of tables and time series, and the class to be told from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from fl_bench.data import hugging, tables
from fl_bench.data.arrays import FederatedData
from fl_bench.data.facts import Facts
from fl_bench.data.files import options_of, table_of_files
from fl_bench.data.flights import flights
from fl_bench.data.har import har
from fl_bench.data.heart import heart
from fl_bench.data.signals import waves
from fl_bench.errors import ConfigError
from fl_bench.tasks.base import Batch, ByName, Classifier


class Numeric(ByName, Classifier):
    """Examples as column "x", float32 [N, *shape], labels as column "y"; the model takes what is there."""

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        scores: Tensor = model(batch["x"])
        return scores

    def figures(self, model: nn.Module, data: FederatedData, folder: Path) -> None:
        from fl_bench.results import pictures  # matplotlib: not in the workers

        if len(data.classes) <= 20:  # more do not fit into a picture
            pictures.confusion(folder, data, self.predict(model, data))


class Tabular(hugging.FromDataSets, Numeric):
    """Rows of tables: a model takes float32 [B, features]."""

    fits_rows = True
    reads = ("features",)

    def load_embedded(self, folder: Path) -> FederatedData:
        return tables.breast_cancer()

    def load_digits(self, folder: Path) -> FederatedData:
        return tables.digits()

    def load_heart(self, folder: Path) -> FederatedData:
        return heart()

    def load_flights(self, folder: Path) -> FederatedData:
        return flights()

    def load_table(
        self,
        folder: Path,
        format: Literal["csv", "parquet"],
        root: str,
        label: str,
        client: str | None,
        features: Sequence[str] | None,
        text: str | None = None,
        separator: str | None = None,
        encoding: str | None = None,
        facts: str | None = None,
    ) -> FederatedData:
        if text is not None:
            raise ConfigError(f"data.text={text}: this task takes no texts; use task=text, or data.features")
        stated, options = Facts.read(facts) if facts else None, options_of(format, separator, encoding)
        data, found = table_of_files(format, root, label, client, features, stated, **options)
        found.write(folder)
        return data

    def of_splits(self, folder: Path, splits: hugging.Splits, wanted: hugging.Wanted) -> FederatedData:
        return hugging.rows_of(splits, wanted.label, wanted.client, wanted.features)


class Series(Numeric):
    """Time series of equal length: a model takes float32 [B, channels, length]."""

    def load_embedded(self, folder: Path) -> FederatedData:
        return waves()

    def load_har(self, folder: Path) -> FederatedData:
        return har()
