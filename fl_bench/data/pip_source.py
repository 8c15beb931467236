"""A script: pip's finder and session bring the package with this file name and sha256 to stdout, and run nothing.

`pip download` builds a source package to learn its metadata, even where nobody asks for them, so that the package's own
code runs; pip has no public way without. What is used here is private, but knows the user's indexes, links, proxies,
certificates and passwords; it was tried with pip 22.3 to 26.3.
"""

import hashlib
import sys

from pip._internal.commands import create_command


def fetch(project: str, name: str, sha256: str) -> bytes:
    """The content of the first file of this name, in pip's order, that has this sha256."""
    command = create_command("download")
    with command.main_context():
        kind = "--only-binary" if name.endswith(".whl") else "--no-binary"
        options, _ = command.parse_args(["--no-input", f"{kind}=:all:"])
        session = command.get_default_session(options)  # type: ignore[attr-defined]
        finder = command._build_package_finder(options, session, ignore_requires_python=True)  # type: ignore[attr-defined]
        for candidate in finder.find_all_candidates(project):
            if candidate.link.filename == name:
                answer = session.get(candidate.link.url_without_fragment, headers={"Accept-Encoding": "identity"})
                answer.raise_for_status()
                if hashlib.sha256(answer.content).hexdigest() == sha256:
                    return bytes(answer.content)
    sys.exit(f"none of pip's indexes has this file with sha256 {sha256}")


if __name__ == "__main__":
    sys.stdout.buffer.write(fetch(*sys.argv[1:]))
