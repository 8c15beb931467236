"""Flower's arrays without serialisation: they hold NumPy arrays as they are."""

from collections.abc import Mapping

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.constant import SType
from numpy.typing import NDArray

BESIDE = "beside"  # the name of a message's record of arrays of any shape beside the model, which nobody adds up


class Buffer(Array):
    """An Array that holds a NumPy array, where Flower's holds it serialised: nothing is copied to make or to send it.

    Pickle is given the array itself, which Ray puts into memory that processes share.
    """

    stype = SType.NUMPY

    def __init__(self, array: NDArray) -> None:
        self.array = array

    @property
    def dtype(self) -> str:  # type: ignore[override]
        return str(self.array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.array.shape

    @property
    def data(self) -> bytes:  # type: ignore[override]
        return Array(self.array).data

    def numpy(self) -> NDArray:
        return self.array.copy()  # whoever asks may write into it

    def __reduce__(self) -> tuple[type, tuple[NDArray]]:
        return Buffer, (self.array,)


def to_record(arrays: Mapping[str, NDArray]) -> ArrayRecord:
    """A record of these very arrays."""
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = Buffer(array)
    return record


def arrays_in(content: RecordDict) -> ArrayRecord:
    """A message's record of a model: the strategy's, whatever it calls it. What we put beside it comes behind it."""
    return next(record for record in content.values() if isinstance(record, ArrayRecord))


def contents(array: Array) -> NDArray:
    """What an array of a record holds, to be read only."""
    return array.array if isinstance(array, Buffer) else array.numpy()
