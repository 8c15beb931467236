from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Launch, long
from PIL import Image

from fl_bench.tasks.dcgan import Gan, discriminator_loss, frechet_distance, generator_loss

LOG3 = 1.0986123


def test_the_losses_on_known_logits() -> None:
    # sigmoid(log 3) = 3/4, sigmoid(0) = 1/2, sigmoid(-log 3) = 1/4
    real, fake = torch.tensor([LOG3, 0.0]), torch.tensor([0.0, -LOG3])
    expected = -(np.log(3 / 4) + np.log(1 / 2)) / 2 - (np.log(1 / 2) + np.log(3 / 4)) / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(expected)
    assert generator_loss(fake).item() == pytest.approx(-(np.log(1 / 2) + np.log(1 / 4)) / 2)


def test_the_frechet_distance_of_known_gaussians() -> None:
    # means 3 apart in one direction, standard deviations 1 and 2: 9 + (1 - 2)^2 in it, (1 - 2)^2 in the other
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200_000, 2)), rng.normal(size=(200_000, 2)) * 2 + [3, 0]
    assert frechet_distance(a, b) == pytest.approx(11, rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_the_networks_fit_each_size(size: int) -> None:
    torch.manual_seed(0)
    gan = Gan(size, 3, 8, 10)
    images = gan.generate(torch.randn(2, 10))
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    assert gan.discriminator(images).shape == (2,)
    weights = gan.get_parameter("generator.0.weight").detach()
    assert weights.mean().abs() < 0.005
    assert weights.std().item() == pytest.approx(0.02, rel=0.1)


def test_only_the_generator_travels_when_asked(launch: Launch, quick_judge: None) -> None:
    words = ("task=dcgan", "data=synthetic", "data.num_samples=100", "num_clients=2", "num_rounds=1", "local.steps=1")
    both, generator = (launch(*words, f"model.share={share}") for share in ("both", "generator"))
    gan = Gan(16, 1, 32, 64)
    sizes = {name: t.numel() for name, t in gan.state_dict().items() if t.is_floating_point()}
    half = sum(size for name, size in sizes.items() if name.startswith("generator."))
    for folder, expected in ((both, sum(sizes.values())), (generator, half)):
        first = (folder / "clients.csv").read_text().splitlines()[1]
        assert first.endswith(f",{4 * expected},{4 * expected},0.0")


@long
def test_a_folder_of_images(launch: Launch, quick_judge: None, tmp_path: Path) -> None:
    for k in range(12):
        Image.fromarray(np.full((30, 20, 3), 20 * k, dtype=np.uint8)).save(tmp_path / f"{k}.png")
    words = ("task=dcgan", "data=full", "data.dataset=folder", f"data.root={tmp_path}", "num_clients=2", "num_rounds=1")
    folder = launch(*words, "model.width=4", "local.steps=1", "figures=true")
    assert (folder / "figures" / "rounds.gif").exists()
    assert Image.open(folder / "figures" / "round_0001.png").size == (512, 512)  # 8 x 8 images of 64 x 64


def test_an_impossible_size(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch("task=dcgan", "model.size=24", exit_code=2)
    assert "model.size=24: must be a power of two from 8" in capsys.readouterr().err
