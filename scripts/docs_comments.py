"""For the site's API pages: the comment behind an attribute is its docstring, so that nothing is written twice."""

from typing import Any

from griffe import Attribute, Docstring, Extension


class Comments(Extension):
    """`stacks = True  # whether ...` is shown with its comment, as is a field of a dataclass."""

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        if attr.docstring is None and attr.lineno:
            line = attr.lines_collection[attr.filepath][(attr.endlineno or attr.lineno) - 1]
            comment = line.partition("  # ")[2].strip()
            if comment and not comment.startswith(("type:", "noqa")):
                attr.docstring = Docstring(comment, lineno=attr.lineno, parent=attr)
