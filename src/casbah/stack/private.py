"""What keeps a stack its owner's alone: private files, and the keys that the parts of the store show each other."""

import datetime
import ipaddress
import os
import secrets
from contextlib import suppress
from pathlib import Path

from casbah.errors import WorldError

CERTIFICATE = "internal.crt"
KEY = "internal.key"

TOKENS = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
PARTS = ("master", "volume", "filer", "s3", "admin", "worker", "client", "mq", "msg_broker", "msg_agent")
"""The sections `jwt.*` and `grpc.*` of the `security.toml` that `weed scaffold -config=security` (4.48) prints."""

VALID = datetime.timedelta(days=3650)


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner may read; whole or not at all."""
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(text + "\n")
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise WorldError(f"{file} could not be written: {error.strerror}") from error


def internal_keys(directory: Path) -> dict[str, str]:
    """Environment by which `weed` closes every door but S3; made anew for each start, in files of the owner alone.

    Master, volume server and filer listen on ports of their own, and would hand every object to whoever asks without a
    key: over HTTP, which asks for signed tokens now, and over gRPC, which asks for this certificate (mutual TLS).
    """
    certificate, secret = _certificate()
    write_private(directory / CERTIFICATE, certificate)
    write_private(directory / KEY, secret)
    tokens = {f"WEED_JWT_{name}_KEY": secrets.token_hex(32) for name in TOKENS}
    certificates = {f"WEED_GRPC_{part.upper()}_CERT": str(directory / CERTIFICATE) for part in PARTS}
    keys = {f"WEED_GRPC_{part.upper()}_KEY": str(directory / KEY) for part in PARTS}
    return {**tokens, "WEED_GRPC_CA": str(directory / CERTIFICATE), **certificates, **keys}


def _certificate() -> tuple[str, str]:
    """A certificate that signs itself, and its key, as PEM: whoever holds the key is a part of this store."""
    # Here: without the `stack` extra a person should read what to install, and not that a module is missing.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "casbah")])
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A day back, for a clock that is set right after the start.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(loopback, critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(encoding).decode().strip(), secret.decode().strip()
