"""Images in files that somebody else has made."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from fl_bench.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # whatever a file's name says; EPS would start Ghostscript


def read_image(root: str, file: Path) -> "Image":
    """The image, or the first of an animation, in a file below `data.root`; a link to a file is followed.

    Raises:
        ConfigError: where it is none, is damaged, or would fill the memory.
    """
    from PIL import Image

    try:
        if not file.is_file():  # a pipe would be waited for
            raise ValueError("not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                image.load()
                return image.copy()
    except Exception as error:  # at damaged files, the readers of PIL raise a dozen kinds
        raise ConfigError(f"data.root={root}: {file.name} is not a readable image ({error})") from error


def read_colours(root: str, file: Path) -> "Image":
    """What `read_image` finds, as RGB of 8 bits each.

    Raises:
        ConfigError: also where it has more bits, which would become white.
    """
    image = read_image(root, file)
    if image.mode.startswith(("I", "F")):
        raise ConfigError(f"data.root={root}: {file.name} has more than 8 bits a pixel and channel; convert it before")
    return image.convert("RGB")
