"""The reference of the site has every key and every option, with what the yaml says about it."""

import importlib.util
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent.parent
spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "scripts" / "docs_hooks.py")
assert spec
assert spec.loader
hooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hooks)


def keys_by_omegaconf(node, prefix: str = "") -> set[str]:
    """The keys of a config as another reader of yaml finds them."""
    keys: set[str] = set()
    for name, value in node.items():
        keys |= keys_by_omegaconf(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name}
    return keys


def test_every_key_of_the_config_is_there_with_its_comment() -> None:
    keys = hooks.keys_of(hooks.CONF / "config.yaml")
    tree = OmegaConf.to_container(OmegaConf.load(hooks.CONF / "config.yaml"), resolve=False)
    del tree["defaults"]
    assert {key.name for key in keys} == keys_by_omegaconf(tree)
    assert [key.name for key in keys if not key.comment] == []
    page = hooks.keys_page()
    assert [key.name for key in keys if f"| `{key.name}` |" not in page] == []


@pytest.mark.parametrize("group", hooks.groups())
def test_every_option_is_there_with_its_comment_and_its_keys(group: str) -> None:
    page, options = hooks.group_page(group), hooks.options(group)
    assert {option.name for option in options} == {file.stem for file in (hooks.CONF / group).glob("*.yaml")}
    for option in options:
        assert option.comment, f"{group}={option.name}"
        assert f"## {option.name}\n\n{hooks.plain(option.comment)}" in page
        assert [key.name for key in option.keys if not key.comment] == [], f"{group}={option.name}"


def test_keys_and_comments_by_hand() -> None:
    (fedprox,) = (option for option in hooks.options("strategy") if option.name == "fedprox")
    (mu,) = fedprox.keys
    assert (mu.name, mu.value) == ("strategy.mu", "0.01")
    assert mu.comment == "or: adaptive, which follows the training loss"
    assert fedprox.code == ["fl_bench.strategies.fedprox.FedProx", "fl_bench.strategies.fedprox.Proximal"]
    assert hooks.plain("|a_b <c>|") == "&#124;a\\_b &lt;c>&#124;"


def test_verbs_say_what_they_do() -> None:
    page = hooks.verbs_page()
    assert {"check", "resume", "verify"} <= hooks.verbs().keys()
    assert [verb for verb, text in hooks.verbs().items() if f"## {verb}\n" not in page or len(text) < 20] == []


def test_links_lead_to_files() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_the_navigation_has_every_page() -> None:
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    written = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert named == written | {page for page in hooks.pages() if not page.startswith(("api/", "reference/"))} | {
        "reference/keys.md", "reference/verbs.md",
    }  # fmt: skip
