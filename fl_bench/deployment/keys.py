"""Keys and certificates of a deployment: made once, and never written over.

FOLDER/ca.key                   signs certificates; nobody needs it in a run
FOLDER/link/                    for the machine of the link: its certificate, and the sites' public keys
FOLDER/driver/                  for the machine of the driver: the key that signs what sites obey
FOLDER/sites/NAME/              for the machine of a site, whose secrets are here only

A site has two keys. By `node.key` (EC, as Flower wants it) the link knows it; with `site.key` (Ed25519) it signs what
it answers. Files with a secret are for their owner only (0600). Keys that sign are in OpenSSH's format, which Flower's
own SuperNode reads.
"""

import datetime
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as formats
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl_bench.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")  # of a site: a word in a path and in a message
HOST = re.compile(r"[A-Za-z0-9*][A-Za-z0-9_.-]{0,252}")  # a name, in ASCII, as certificates have it
HOSTS = ("localhost", "127.0.0.1", "::1")
DAYS = 365  # that certificates are valid
SECRET, OPEN = 0o600, 0o644
PEM, PEERS = formats.Encoding.PEM, "peers"
CA, CA_KEY, SERVER, SERVER_KEY, CLAIM = "ca.crt", "ca.key", "server.crt", "server.key", "claim.secret"
DRIVER, DRIVER_KEY, NODE, NODE_KEY, SITE, SITE_KEY = (
    "driver.pub", "driver.key", "node.pub", "node.key", "site.pub", "site.key"
)  # fmt: skip
PrivateKey = ec.EllipticCurvePrivateKey | Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | Ed25519PublicKey


@dataclass(frozen=True)
class DriverKeys:
    """What the driver knows."""

    ca: bytes  # of the link's certificate
    key: Ed25519PrivateKey
    claim: bytes  # with which it takes the task of a run's server at the link
    sites: Mapping[str, Ed25519PublicKey]  # by name
    nodes: Mapping[bytes, str]  # the name of a site by its public key at the link


@dataclass(frozen=True)
class SiteKeys:
    """What a site knows."""

    ca: bytes
    node: ec.EllipticCurvePrivateKey
    key: Ed25519PrivateKey
    driver: Ed25519PublicKey
    peers: Mapping[str, Ed25519PublicKey]  # by name, itself too: with whom it makes masks


def make(folder: Path, sites: Sequence[str], hosts: Sequence[str] = ()) -> None:
    """Write what is not there yet: for `sites`, and unless there are keys already, for the link and the driver.

    The link's certificate is for HOSTS and for these `hosts`. Raises ConfigError where a site has its keys already, or
    a name cannot be.
    """
    if folder.exists() and not (folder / CA_KEY).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is neither empty nor has {CA_KEY}; choose another")
    for name in sites:
        if not NAME.fullmatch(name):
            raise ConfigError(f"--sites {name}: a name has letters, digits, - and _, and begins with none of the last")
        if (folder / "sites" / name).exists():
            raise ConfigError(f"--sites {name}: {folder / 'sites' / name} is there already, and stays as it is")
        if [*sites].count(name) > 1:
            raise ConfigError(f"--sites {name}: is named twice")
    if not (folder / CA_KEY).exists():
        _make_ours(folder, (*HOSTS, *hosts))
    elif hosts:
        raise ConfigError(f"--host {hosts[0]}: the link has its certificate in {folder} already; make a new folder")
    for name in sites:
        node, site = ec.generate_private_key(ec.SECP384R1()), Ed25519PrivateKey.generate()
        theirs = folder / "sites" / name
        _write(theirs / CA, (folder / "link" / CA).read_bytes(), OPEN)
        _write(theirs / DRIVER, (folder / "driver" / DRIVER).read_bytes(), OPEN)
        _write(theirs / NODE_KEY, _private(node))
        _write(theirs / SITE_KEY, _private(site))
        for place in ("link", "driver"):
            _write(folder / place / "sites" / name / NODE, _public(node.public_key()), OPEN)
        _write(folder / "driver" / "sites" / name / SITE, _public(site.public_key()), OPEN)
    for path in (folder / "driver" / "sites").iterdir():  # each site knows all, those of before the new ones too
        for theirs in (folder / "sites").iterdir():
            if not (peer := theirs / PEERS / f"{path.name}.pub").exists():
                _write(peer, (path / SITE).read_bytes(), OPEN)


def of_driver(folder: Path) -> DriverKeys:
    """The keys in `engine.certs`; raises ConfigError where something is missing."""
    option = f"engine.certs={folder}"
    sites = {path.name: path for path in sorted((folder / "sites").glob("*"))}
    return DriverKeys(
        ca=_read(folder / CA, option),
        key=_key(folder / DRIVER_KEY, option, Ed25519PrivateKey),
        claim=_read(folder / CLAIM, option),
        sites={name: _key(path / SITE, option, Ed25519PublicKey, is_private=False) for name, path in sites.items()},
        nodes={_read(path / NODE, option): name for name, path in sites.items()},
    )


def signing(folder: Path) -> tuple[Ed25519PublicKey, dict[str, Ed25519PublicKey]]:
    """The driver's key in a folder such as `engine.certs`, and by name the sites', of which only the public files are
    read; raises ConfigError where something is missing.
    """
    option, paths = f"--certs {folder}", sorted((folder / "sites").glob("*"))
    driver = _key(folder / DRIVER, option, Ed25519PublicKey, is_private=False)
    return driver, {path.name: _key(path / SITE, option, Ed25519PublicKey, is_private=False) for path in paths}


def of_site(folder: Path) -> SiteKeys:
    """The keys in the `--certs` of a site; raises ConfigError where something is missing."""
    option = f"--certs {folder}"
    return SiteKeys(
        ca=_read(folder / CA, option),
        node=_key(folder / NODE_KEY, option, ec.EllipticCurvePrivateKey),
        key=_key(folder / SITE_KEY, option, Ed25519PrivateKey),
        driver=_key(folder / DRIVER, option, Ed25519PublicKey, is_private=False),
        peers={
            path.stem: _key(path, option, Ed25519PublicKey, is_private=False)
            for path in sorted((folder / PEERS).glob("*.pub"))
        },
    )


def nodes_of_link(folder: Path) -> dict[str, bytes]:
    """By name: the public keys of the sites that the link is to let in."""
    for name in (CA, SERVER, SERVER_KEY, CLAIM):
        _read(folder / name, f"--certs {folder}")
    return {path.parent.name: path.read_bytes() for path in sorted((folder / "sites").glob(f"*/{NODE}"))}


def _make_ours(folder: Path, hosts: Sequence[str]) -> None:
    """The keys of the authority, of the link and of the driver."""
    ca, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    driver = Ed25519PrivateKey.generate()
    authority, claim = _certificate("fl-bench CA", ca.public_key(), ca), secrets.token_bytes(32)
    _write(folder / "link" / SERVER, _certificate("fl-bench link", server.public_key(), ca, hosts), OPEN)
    _write(folder / "link" / SERVER_KEY, _private(server, formats.PrivateFormat.PKCS8))  # as web servers read it
    _write(folder / "driver" / DRIVER_KEY, _private(driver))
    _write(folder / "driver" / DRIVER, _public(driver.public_key()), OPEN)
    for place in ("link", "driver"):
        _write(folder / place / CA, authority, OPEN)
        _write(folder / place / CLAIM, claim)
    _write(folder / CA_KEY, _private(ca))  # the last: it says that the others are there


def _certificate(
    name: str, key: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey, hosts: Sequence[str] = ()
) -> bytes:
    """A certificate in PEM; without hosts that of the authority itself."""
    is_ca, begin = not hosts, datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)  # clocks differ
    no = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    usage = dict.fromkeys((*no, "decipher_only"), False)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), True),
        (x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **usage), True),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ]
    if hosts:
        extensions += [
            (x509.SubjectAlternativeName([_general_name(host) for host in hosts]), False),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(_common_name(name))
        .issuer_name(_common_name("fl-bench CA"))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=DAYS))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256()).public_bytes(PEM)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not HOST.fullmatch(host):
            wish = "must be a name such as fl.example.org, or an address, without a port"
            raise ConfigError(f"--host {host}: {wish}") from None
        return x509.DNSName(host)


def _private(key: PrivateKey, format: formats.PrivateFormat = formats.PrivateFormat.OpenSSH) -> bytes:
    return key.private_bytes(PEM, format, formats.NoEncryption())


def _public(key: PublicKey) -> bytes:
    return key.public_bytes(PEM, formats.PublicFormat.SubjectPublicKeyInfo)


def _write(file: Path, content: bytes, mode: int = SECRET) -> None:
    """A new file; one that is there is never written over."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)


def _read(file: Path, option: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option}: {file}: {error.strerror}; `fl-bench certs` makes such folders") from error


def _key(file: Path, option: str, kind: type, is_private: bool = True) -> Any:
    """The key in a file, which is of this kind."""
    content = _read(file, option)
    try:
        key = formats.load_ssh_private_key(content, None) if is_private else formats.load_pem_public_key(content)
    except (ValueError, TypeError) as error:
        form = "private key of OpenSSH" if is_private else "public key in PEM"
        raise ConfigError(f"{option}: {file}: is no {form}") from error
    if not isinstance(key, kind):
        raise ConfigError(f"{option}: {file}: is a key of another kind than `fl-bench certs` makes")
    return key
