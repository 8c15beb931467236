"""Keys are for their owners only, and never written over."""

import ipaddress
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fl_bench.deployment import keys
from fl_bench.errors import ConfigError

SECRETS = {"ca.key", "server.key", "driver.key", "node.key", "site.key", "claim.secret"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_secrets_are_for_their_owner_only_and_a_site_has_only_its_own(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys", ["a", "b"])
    modes = {file: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "keys").rglob("*") if file.is_file()}
    assert {file.name for file, mode in modes.items() if mode == 0o600} == SECRETS
    assert {mode for file, mode in modes.items() if file.name not in SECRETS} == {0o644}
    site = contents(tmp_path / "keys" / "sites" / "a")
    assert site.keys() == {"ca.crt", "driver.pub", "node.key", "site.key", "peers/a.pub", "peers/b.pub"}
    others = {name: text for name, text in contents(tmp_path / "keys").items() if not name.startswith("sites/a")}
    assert not {site["node.key"], site["site.key"]} & set(others.values())


def test_nothing_is_written_over_and_sites_can_be_added(tmp_path: Path) -> None:
    keys.make(tmp_path, ["a"])
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"--sites a: .* stays as it is"):
        keys.make(tmp_path, ["b", "a"])
    assert contents(tmp_path) == before
    keys.make(tmp_path, ["b"])
    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert keys.of_driver(tmp_path / "driver").sites.keys() == {"a", "b"}
    assert keys.nodes_of_link(tmp_path / "link").keys() == {"a", "b"}


def test_another_folder_or_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is neither empty nor has"):
        keys.make(tmp_path, ["a"])
    for name in ("../a", "", "a/b", ".", "a b"):
        with pytest.raises(ConfigError, match="a name has letters"):
            keys.make(tmp_path / "new", [name])
    with pytest.raises(ConfigError, match="--sites a: is named twice"):
        keys.make(tmp_path / "new", ["a", "b", "a"])
    for host in ("https://fl.example.org", "fl.example.org:8000", "[::1]", "h\u00f4pital.org", "a b"):
        with pytest.raises(ConfigError, match="must be a name such as"):
            keys.make(tmp_path / "new", ["a"], [host])
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match=r"engine\.certs=.*ca\.crt: No such file.*`fl-bench certs` makes"):
        keys.of_driver(tmp_path)


def test_the_certificate_names_the_hosts(tmp_path: Path) -> None:
    keys.make(tmp_path, ["a"], ["fl.example.org", "10.0.0.7"])
    certificate = x509.load_pem_x509_certificate((tmp_path / "link" / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "fl.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
        ipaddress.ip_address("10.0.0.7"),
    ]


def test_flowers_own_supernode_can_read_the_key_of_a_node(tmp_path: Path) -> None:
    keys.make(tmp_path, ["a"])
    site = tmp_path / "sites" / "a"
    key = load_ssh_private_key((site / "node.key").read_bytes(), None)  # as it does
    assert key.public_key() == keys.of_site(site).node.public_key()
