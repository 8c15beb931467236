"""What is refused before anybody connects, and what is said where TLS refuses."""

import re
import ssl
from pathlib import Path

import pytest
from conftest import compose

from fl_bench import commands
from fl_bench.build import build
from fl_bench.commands.link import _refuse_taken
from fl_bench.deployment import keys
from fl_bench.deployment.link import address
from fl_bench.deployment.transport import refuses_tls, with_remedy
from fl_bench.engines.base import Engine
from fl_bench.errors import ConfigError


@pytest.mark.parametrize("link", ["", "fl.example.org", ":8000", "a:0", "a:65536", "a:8000x", "::1:8000", "http://a:1"])
def test_a_link_is_a_host_and_a_port(link: str, tmp_path: Path) -> None:
    folders = ["--certs", str(tmp_path), "--data", str(tmp_path), "--root", str(tmp_path)]
    with pytest.raises(ConfigError, match=rf"^--link {re.escape(link)}: must be HOST:PORT"):
        commands.call("site", ["--link", link, "--name", "a", *folders])
    with pytest.raises(ConfigError, match=rf"^engine\.link={re.escape(link)}: must be HOST:PORT"):
        build(compose("engine=deployment", f"engine.link='{link}'", f"engine.certs={tmp_path}").engine, Engine)


def test_an_address_of_ipv6_is_in_brackets(tmp_path: Path) -> None:
    assert (address("::1", 8000), address("10.0.0.7", 8000)) == ("[::1]:8000", "10.0.0.7:8000")
    build(compose("engine=deployment", "engine.link='[::1]:8000'", f"engine.certs={tmp_path}").engine, Engine)
    _refuse_taken("::1", 0)


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--clients", "", "--clients : must be numbers and ranges"),
        ("--root", "file", "--root file: cannot be a folder to write to: File exists"),
        ("--root", "file/root", "--root file/root: cannot be a folder to write to: Not a directory"),
    ],
)
def test_a_site_that_is_wrongly_started(
    option: str, value: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys.make(Path("keys"), ["a"])
    Path("file").touch()
    Path("partition.rows.npy").touch()
    words = {"--link": "127.0.0.1:1", "--name": "a", "--certs": "keys/sites/a", "--data": ".", "--root": "root"}
    with pytest.raises(ConfigError, match=f"^{re.escape(why)}"):
        commands.call("site", [word for pair in (words | {option: value}).items() for word in pair])


def test_a_link_keeps_its_things_in_a_database(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys", ["a"])
    words = ("link", ["--certs", str(tmp_path / "keys" / "link"), "--port", "0", "--database"])
    for path in (tmp_path / "nowhere" / "x.db", tmp_path, tmp_path / "keys" / "ca.key"):
        with pytest.raises(ConfigError, match=f"^--database {path}: must be a link's database, or a new file"):
            commands.call(words[0], [*words[1], str(path)])


def test_no_more_sites_can_be_there_than_have_keys(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys", ["a", "b"])
    words = ("engine.link=127.0.0.1:1", f"engine.certs={tmp_path / 'keys' / 'driver'}", "engine.sites=3")
    engine = build(compose("engine=deployment", *words).engine, Engine)
    with (
        pytest.raises(ConfigError, match=r"^engine\.sites=3: must be at most 2: engine\.certs has the keys of a, b$"),
        engine.workers(tmp_path),
    ):
        pass


def test_where_tls_refuses_it_is_said_what_would_be_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.make(tmp_path / "one", ["a"])
    keys.make(tmp_path / "other", ["a"])
    monkeypatch.setattr(keys, "DAYS", 1 / 24 / 60)  # a certificate begins five minutes ago
    keys.make(tmp_path / "old", ["a"])
    for link, site, host, remedy in (
        ("one", "one", "fl.example.org", "`fl-bench certs FOLDER --host HOST` makes keys"),
        ("one", "one", "10.0.0.7", "`fl-bench certs FOLDER --host HOST` makes keys"),
        ("one", "other", "localhost", "must have keys of the same `fl-bench certs`"),
        ("old", "old", "localhost", "make new keys of all with `fl-bench certs`"),
    ):
        error = refused(tmp_path / link / "link", tmp_path / site / "sites" / "a", host)
        assert refuses_tls(error)
        assert with_remedy(error).startswith(f"{error}; ")
        assert with_remedy(error).count(";") == 1
        assert remedy in with_remedy(error)


def refused(link: Path, site: Path, host: str) -> ssl.SSLError:
    """What TLS says to a site that connects to a link at `host`; nothing goes over a network."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(link / keys.SERVER, link / keys.SERVER_KEY)
    client = ssl.create_default_context(cadata=(site / keys.CA).read_text())
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(down, up, server_hostname=host), server.wrap_bio(up, down, server_side=True)
    for end in (*ends, *ends, *ends):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            return error
    raise AssertionError("TLS has refused nothing")
