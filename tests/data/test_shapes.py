import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl_bench.data import fetch, shapes
from fl_bench.data.sources import TEST_PHOTOS
from fl_bench.errors import ConfigError


def test_a_bounding_box_by_hand() -> None:
    mask = np.zeros((5, 6), dtype=bool)
    mask[1, 4] = mask[3, 2] = True
    assert shapes.bounding_box(mask) == (2, 1, 4, 3)


@pytest.mark.parametrize("jitter", [0, 3])
def test_a_box_is_off_by_the_jitter_at_most(jitter: int) -> None:
    for scene in shapes.generated(50, TEST_PHOTOS, np.random.default_rng(0), jitter=jitter):
        exact = np.array(shapes.bounding_box(scene.objects == 1))
        assert np.abs(exact - scene.boxes[0]).max() <= jitter
        assert scene.image.shape == (64, 64, 3)


def write(root: Path, mask: np.ndarray) -> None:
    for name in ("images", "masks"):
        (root / name).mkdir(exist_ok=True)
    Image.fromarray(np.zeros((*mask.shape, 3), dtype=np.uint8)).save(root / "images" / "a.jpg")
    Image.fromarray(mask).save(root / "masks" / "a.png")


def test_each_value_of_a_mask_is_an_object_with_a_box(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[5:15, 5:20] = 7
    mask[20:35, 30:50] = 200
    write(tmp_path, mask)
    (scene,) = shapes.from_folder(str(tmp_path))
    assert scene.boxes == [[5, 5, 19, 14], [30, 20, 49, 34]]
    assert [int((scene.objects == k).sum()) for k in (0, 1, 2)] == [40 * 60 - 450, 150, 300]


def test_a_folder_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no images/"):
        list(shapes.from_folder(str(tmp_path)))
    write(tmp_path, np.ones((4, 4), dtype=np.uint8))
    Image.fromarray(np.ones((5, 5), dtype=np.uint8)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ConfigError, match=r"the mask of a.jpg is \(5, 5\) of uint8, not \(4, 4\)"):
        list(shapes.from_folder(str(tmp_path)))
    (tmp_path / "masks" / "a.png").unlink()
    with pytest.raises(ConfigError, match=r"masks/ has 0 files for the image a\.jpg"):
        list(shapes.from_folder(str(tmp_path)))


def test_nuclei_are_windows_of_the_image_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(1000, size=(200, 150)).astype(np.uint16)
    mask = np.zeros((200, 150), dtype=np.uint16)
    mask[100:110, 70:90], mask[0:5, 0:8] = 1, 2  # one in the middle, one in the corner
    with tarfile.open(tmp_path / shapes.SDIST, "w:gz") as archive:
        for name, array in (("img2d", image), ("mask2d", mask)):
            content = io.BytesIO()
            Image.fromarray(array).save(content, format="TIFF")
            info = tarfile.TarInfo(shapes.NUCLEI.format(name))
            info.size = content.tell()
            content.seek(0)
            archive.addfile(info, content)
    monkeypatch.setattr(fetch, "CACHE", tmp_path)
    monkeypatch.setattr(shapes, "SHA256", hashlib.sha256((tmp_path / shapes.SDIST).read_bytes()).hexdigest())
    middle, corner = shapes.nuclei()
    assert middle.boxes == [[11, 16, 30, 25]]  # the window begins at floor((70 + 89 - 40) / 2) = 59, and at 84
    assert corner.boxes == [[0, 0, 7, 4]]
    assert [int(scene.objects.sum()) for scene in (middle, corner)] == [200, 40]
    assert (middle.image.shape, corner.image.shape) == ((40, 40, 3), (16, 16, 3))
