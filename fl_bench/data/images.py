"""Images in files that somebody else has made."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from fl_bench.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # whatever a file's name says; EPS would start Ghostscript


@contextmanager
def opened(where: str, name: str, source: Path | bytes) -> Iterator["Image"]:
    """An image, or the first of an animation, in a file or in bytes, of which only the header is read so far.

    A link to a file is followed. Errors call it `name`, and begin with `where`.

    Raises:
        ConfigError: where it is none, would fill the memory, or is found to be damaged while the context lasts.
    """
    from PIL import Image

    try:
        if isinstance(source, Path) and not source.is_file():  # a pipe would be waited for
            raise ValueError("not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                yield image
    except ConfigError:
        raise
    except Exception as error:  # at damaged files, the readers of PIL raise a dozen kinds
        raise ConfigError(f"{where}: {name} is not a readable image ({error})") from error


def read_image(root: str, file: Path) -> "Image":
    """The image in a file below `data.root`, whole; see `opened`."""
    with opened(f"data.root={root}", file.name, file) as image:
        image.load()
        return image.copy()


def read_colours(root: str, file: Path) -> "Image":
    """What `read_image` finds, as RGB of 8 bits each.

    Raises:
        ConfigError: also where it has more bits, which would become white.
    """
    return converted(f"data.root={root}", file.name, read_image(root, file), "RGB")


def converted(where: str, name: str, image: "Image", mode: str) -> "Image":
    """The image in the mode "L" or "RGB"; a ConfigError where it has more than 8 bits, which would become white."""
    if image.mode.startswith(("I", "F")):
        raise ConfigError(f"{where}: {name} has more than 8 bits a pixel and channel; convert it before")
    return image.convert(mode)
