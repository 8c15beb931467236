"""A federated DCGAN (Radford et al. 2016, arXiv:1511.06434): a generator and a discriminator play at every client."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from fl_bench.data import sources
from fl_bench.data.arrays import Columns, FederatedData, pieces, writing_into
from fl_bench.errors import ConfigError
from fl_bench.metrics import Metric
from fl_bench.tasks.base import Batch, Metrics, Task, batch_mean, gather

JUDGED = 1000  # images that the judge sees of each kind
JUDGE_STEPS, JUDGE_FEATURES = 400, 64


class Gan(nn.Module):
    """Both networks, so that both travel; images are in [-1, 1]."""

    def __init__(self, size: int, channels: int, width: int, latent: int) -> None:
        super().__init__()
        steps = size.bit_length() - 3  # doublings from 4 x 4
        wide = [width * 2**k for k in range(steps)]
        up: list[nn.Module] = [nn.ConvTranspose2d(latent, wide[-1], 4, bias=False), nn.BatchNorm2d(wide[-1]), nn.ReLU()]
        down: list[nn.Module] = [nn.Conv2d(channels, wide[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for small, large in pairwise(wide):
            down += [nn.Conv2d(small, large, 4, 2, 1, bias=False), nn.BatchNorm2d(large), nn.LeakyReLU(0.2)]
        for large, small in pairwise(wide[::-1]):
            up += [nn.ConvTranspose2d(large, small, 4, 2, 1, bias=False), nn.BatchNorm2d(small), nn.ReLU()]
        self.generator = nn.Sequential(*up, nn.ConvTranspose2d(wide[0], channels, 4, 2, 1), nn.Tanh())
        self.discriminator = nn.Sequential(*down, nn.Conv2d(wide[-1], 1, 4), nn.Flatten(0))
        self.latent = latent
        for module in self.modules():  # section 3: once, here, not at every client's turn
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def generate(self, noise: Tensor) -> Tensor:
        """Images [B, channels, size, size] from noise [B, latent]."""
        images: Tensor = self.generator(noise[:, :, None, None])
        return images


class Pair(NamedTuple):
    """The two optimisers of a GAN; each takes its step when its own network has its gradients."""

    discriminator: Optimizer
    generator: Optimizer


class Dcgan(Task):
    """Images as column "x", uint8 [N, channels, size, size]; losses of both networks, and `judge_fd`."""

    metrics = (
        *Task.metrics,
        Metric("d_loss", better="lower"),
        Metric("g_loss", better="lower"),
        Metric("judge_fd", better="lower", shown=".1f"),
    )
    one_loss = False

    def __init__(self, size: int | None, width: int, latent: int, share: Literal["both", "generator"]) -> None:
        if size is not None and (not 8 <= size <= 1024 or size & (size - 1)):
            raise ConfigError(f"model.size={size}: must be a power of two from 8 to 1024")
        for name, value in (("width", width), ("latent", latent)):
            if value < 1:
                raise ConfigError(f"model.{name}={value}: must be 1 or more")
        self.size, self.width, self.latent, self.share = size, width, latent, share

    def model(self, data: FederatedData) -> nn.Module:
        channels, size = data.train["x"].shape[1:3]
        return Gan(size, channels, self.width, self.latent)

    def private(self, model: nn.Module) -> set[str]:
        return {name for name in self.shared(model) if self.share == "generator" and name.startswith("discriminator.")}

    def load_embedded(self, folder: Path) -> FederatedData:
        return self._judged(folder, sources.digits(), self.size or 16)

    def load_synthetic(self, folder: Path, num_samples: int) -> FederatedData:
        size = self.size or 16
        return self._judged(folder, sources.synthetic(folder, num_samples, (1, size, size)), size)

    def load_full(self, folder: Path, root: str | None, dataset: str | None) -> FederatedData:
        """CIFAR-10, or with `data.dataset=folder` the images of any folder `data.root`."""
        size = self.size or 64
        if dataset == "folder":
            if root is None:
                raise ConfigError("data.root=null: give the folder of images that data.dataset=folder reads")
            return self._judged(folder, sources.image_folder(root, size), size)
        if dataset not in (None, "CIFAR10"):
            raise ConfigError(f"data.dataset={dataset}: task dcgan knows CIFAR10 and folder")
        return self._judged(folder, sources.torchvision_images("CIFAR10", root, (3, 32, 32)), size)

    def optimizer(self, model: nn.Module, local: Mapping[str, Any]) -> Pair:
        assert isinstance(model, Gan)
        return Pair(super().optimizer(model.discriminator, local), super().optimizer(model.generator, local))

    def objective(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Both losses for new fakes; they have no common minimum, so their sum is only to be watched."""
        assert isinstance(model, Gan)
        real = _signed(batch["x"])
        fake = model.generate(self._noise(real))
        d_loss = discriminator_loss(model.discriminator(real), model.discriminator(fake.detach()))
        g_loss = generator_loss(model.discriminator(fake))
        return d_loss + g_loss, _metrics(d_loss, g_loss, len(real))

    def step(self, model: nn.Module, batch: Batch, optimizer: Any, correct: Callable[[], None]) -> Metrics:
        """One step of the discriminator, then one of the generator against it (Goodfellow et al. 2014, algorithm 1)."""
        assert isinstance(model, Gan)
        real = _signed(batch["x"])
        fake = model.generate(self._noise(real))
        model.zero_grad()
        d_loss = discriminator_loss(model.discriminator(real), model.discriminator(fake.detach()))
        d_loss.backward()
        correct()
        optimizer.discriminator.step()
        model.zero_grad()
        g_loss = generator_loss(model.discriminator(fake))
        g_loss.backward()
        correct()
        optimizer.generator.step()
        return _metrics(d_loss.detach(), g_loss.detach(), len(real))

    @torch.no_grad()
    def measure(self, model: nn.Module, data: FederatedData) -> dict[str, float]:
        """`judge_fd`: the Frechet distance of generated images to test images, in the judge's features (not an FID)."""
        device = next(model.parameters()).device
        judge = _Judge(data.train["x"].shape[1], len(data.classes)).to(device).eval()
        judge.load_state_dict(load_file(data.folder / "judge.safetensors"))
        real = _signed(gather({"x": data.test["x"]}, np.arange(len(data.test["x"]))[:JUDGED], device)["x"])
        fake = self._images(model, JUDGED)
        return {"judge_fd": frechet_distance(judge.features(real), judge.features(fake))}

    @torch.no_grad()
    def picture(self, model: nn.Module, data: FederatedData) -> NDArray[np.uint8]:
        """A montage of 8 x 8 images, from the same noise each time."""
        images = ((self._images(model, 64) + 1) * 127.5).byte().cpu().numpy()
        side, channels = 8 * images.shape[-1], images.shape[1]
        montage = images.reshape(8, 8, *images.shape[1:]).transpose(0, 3, 1, 4, 2).reshape(side, side, channels)
        return np.broadcast_to(montage, (*montage.shape[:2], 3)).copy()

    def _images(self, model: nn.Module, count: int) -> Tensor:
        """Images from fixed noise, by the model in evaluation mode."""
        assert isinstance(model, Gan)
        model.eval()
        noise = torch.randn(count, self.latent, generator=torch.Generator().manual_seed(0))
        device = next(model.parameters()).device
        return torch.cat([model.generate(part.to(device)) for part in noise.split(200)])

    def _noise(self, real: Tensor) -> Tensor:
        return torch.randn(len(real), self.latent, device=real.device)

    def _judged(self, folder: Path, data: FederatedData, size: int) -> FederatedData:
        """The data at this size, and beside it a judge that has been trained on it."""
        data = FederatedData(_resized(data.train, size), _resized(data.test, size), data.classes)
        judge = _Judge(data.train["x"].shape[1], len(data.classes))
        optimizer = torch.optim.Adam(judge.parameters())
        for _ in range(JUDGE_STEPS):
            rows = torch.randint(data.num_samples, (64,)).numpy()
            batch = gather({"x": data.train["x"], "y": data.train["y"]}, rows)
            optimizer.zero_grad()
            functional.cross_entropy(judge(_signed(batch["x"])), batch["y"]).backward()
            optimizer.step()
        with writing_into(folder):
            save_file(judge.state_dict(), folder / "judge.safetensors")
        return data


def _resized(columns: Columns, size: int) -> Columns:
    images = columns["x"]
    if images.shape[2:] == (size, size):
        return columns
    parts = [
        functional.interpolate(torch.from_numpy(part).float(), (size, size), mode="bilinear", antialias=True)
        for part in pieces(images, 1000)
    ]
    return {**columns, "x": np.concatenate([part.round().clamp(0, 255).byte().numpy() for part in parts])}


class _Judge(nn.Module):
    """A small classifier of the real images; its last layer but one is what the distance is measured in."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(32 * 16, JUDGE_FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(JUDGE_FEATURES, max(2, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(images))
        return scores

    def features(self, images: Tensor) -> NDArray[np.float64]:
        return torch.cat([self.body(part) for part in images.split(200)]).double().cpu().numpy()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), from logits [B] each."""
    return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """-log D(G(z)), from logits [B]: the form that does not saturate."""
    return functional.softplus(-fake).mean()


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)) of features [N, F] (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    The trace of (A B)^(1/2) is the sum of the square roots of the eigenvalues of A^(1/2) B A^(1/2).
    """
    difference = a.mean(axis=0) - b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _signed(pixels: Tensor) -> Tensor:
    return pixels.float().div_(127.5).sub_(1)


def _metrics(d_loss: Tensor, g_loss: Tensor, count: int) -> Metrics:
    losses = {"loss": d_loss + g_loss, "d_loss": d_loss, "g_loss": g_loss}
    return {name: batch_mean(loss, count) for name, loss in losses.items()}
