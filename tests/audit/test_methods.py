"""Images, labels and members that are found by hand, too."""

import numpy as np
import pytest
import torch
from scipy.stats import beta
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from fl_bench.audit import labels
from fl_bench.audit.inversion import divided, matched, searched
from fl_bench.audit.membership import membership
from fl_bench.data.arrays import FederatedData
from fl_bench.tasks.base import ImageClassifier


class Pixels(ImageClassifier):
    def model(self, data: FederatedData) -> nn.Module:
        raise NotImplementedError


def test_two_pixels_by_division() -> None:
    """Logits 0 and 0, label 0: p - y = (-1/2, 1/2), so that dW = (p - y) x and db = p - y for x = (0.2, 0.6)."""
    weights = np.array([[-0.1, -0.3], [0.1, 0.3]], np.float32)
    assert divided(weights, np.array([-0.5, 0.5], np.float32), 2) == pytest.approx(np.array([[0.2, 0.6]] * 2))
    assert divided(weights, np.zeros(2, np.float32), 2).shape == (0, 2)


def gradient_of(model: nn.Module, images: Tensor, truth: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = functional.cross_entropy(model(images), truth)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("factor", [1.0, 0.01])
def test_an_image_is_found_whatever_the_length_of_its_gradient(factor: float) -> None:
    torch.manual_seed(0)
    image, truth = torch.full((1, 1, 4, 4), 0.25), torch.tensor([1])
    image[..., 2:] = 0.75
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    gradient = {name: factor * part for name, part in gradient_of(model, image, truth).items()}
    start = np.random.default_rng(0).random((1, 1, 4, 4), dtype=np.float32)
    found = searched(Pixels(), model, gradient, truth, start, 300)
    assert np.abs(found - image.numpy()).max() < 0.03 < 0.3 < np.abs(start - image.numpy()).max()


def test_an_image_is_compared_with_the_original_that_it_is_most_like() -> None:
    originals = np.zeros((3, 1, 8, 8), np.float32)
    originals[1], originals[2] = 0.5, 1
    match = matched(originals, np.stack([originals[2], originals[1] + 0.1]))
    assert (match.originals == originals[[2, 1]]).all()
    assert match.psnr == pytest.approx([100, 20])  # -10 log10(0.1 ** 2)
    assert match.ssim[0] == 1
    c1 = 0.01**2  # where both are constant only the luminance counts: (2 a b + c1) / (a a + b b + c1)
    assert match.ssim[1] == pytest.approx((2 * 0.5 * 0.6 + c1) / (0.25 + 0.36 + c1))


def test_labels_of_an_update_by_hand() -> None:
    """Four examples, two of class 0, one each of 1 and 2; the model predicts otherwise for each class.

    The mean of p is (0.3 + 0.05 + 0.025, 0.1 + 0.15 + 0.025, 0.1 + 0.05 + 0.2), of which the shares are taken.
    """
    predicted = np.array([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]])
    gradient = np.array([-0.125, 0.025, 0.1])
    found = labels.shares(gradient, predicted, predicted)
    assert found == pytest.approx([0.5, 0.25, 0.25])
    assert labels.labels(gradient, found, 4, 4).tolist() == [0, 0, 1, 2]
    assert labels.labels(gradient, found, 2, 4).tolist() == [0, 1]  # the halves of 1 and 2 are equal: the first
    assert labels.labels(np.array([0.3, 0.1, -0.4]), found, 1, 1).tolist() == [2]
    assert labels.labels(np.array([0.3, 0.1, -0.4]), found, 1, 4).tolist() == [0]  # of four, the one seen most
    assert labels.total_variation(found, np.array([0.25, 0.25, 0.5])) == pytest.approx(0.25)


def test_predictions_are_those_of_the_latest_point_that_fits() -> None:
    """A model that ends sure of class 0 or 1, half and half: no point after the middle explains these biases.

    With t of the way gone it predicts 0.5 + 0.5 t for the right class. Shares (1, 0) have the gradient 0.5 (t - 1), and
    at t = 0.5 that is -0.25; later points would need a share above 1.
    """
    before, after = np.full((2, 2), 0.5), np.eye(2)
    assert labels.shares(np.array([-0.25, 0.25]), before, after) == pytest.approx([1, 0])
    assert labels.shares(np.array([-0.25, 0.25]), before, before) == pytest.approx([0.75, 0.25])


def test_members_by_hand() -> None:
    """Of six pairs a member has the lower loss in five: 0.1 and 0.2 below both others, 0.6 below one of them."""
    found = membership(np.array([0.1, 0.2, 0.6]), np.array([0.5, 0.9]))
    assert found.auc[0] == pytest.approx(5 / 6)
    # Placements: of the members 1, 1, 1/2, with variance 1/12; of the others 2/3, 1, with variance 1/18.
    assert found.auc[1] == pytest.approx(5 / 6 - 1.959964 * (1 / 36 + 1 / 36) ** 0.5)
    assert found.auc[2] == 1
    assert found.tpr[0] == pytest.approx(2 / 3)  # below 0.5, the lowest loss of the others, none of which may be found
    assert found.tpr[1:] == pytest.approx((beta.ppf(0.025, 2, 2), beta.ppf(0.975, 3, 1)))
    assert found.advantage == pytest.approx(2 / 3)  # below the mean of 0.3


def test_the_area_is_that_of_the_curve_also_with_ties() -> None:
    chance = np.random.default_rng(0)
    members, others = (chance.integers(0, 10, size).astype(float) for size in (40, 60))
    truth = np.repeat([1, 0], [40, 60])
    area = membership(members, others + 1).auc
    assert area[0] == pytest.approx(roc_auc_score(truth, -np.concatenate([members, others + 1])))


def test_the_interval_of_the_area_covers_the_truth() -> None:
    """Of N(0, 1) and N(1, 1) a member has the lower loss with probability Phi(1 / sqrt 2) = 0.7602."""
    chance = np.random.default_rng(0)
    areas = [membership(chance.normal(0, 1, 50), chance.normal(1, 1, 50)).auc for _ in range(400)]
    covered = np.mean([low < 0.7602 < high for _, low, high in areas])
    assert 0.92 < covered < 0.98
