"""How far vectors are from each other."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def squared_distances(rows: Floats) -> Floats:
    """Of each two of these rows: from [H, N] to [H, H].

    Examples:
        >>> squared_distances(np.array([[0.0, 0.0], [3.0, 4.0]]))
        array([[ 0., 25.],
               [25.,  0.]])
    """
    products = rows @ rows.T
    squares = np.diag(products)
    return np.maximum(squares[:, None] + squares - 2 * products, 0)
