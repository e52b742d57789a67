"""Contexts for encrypted links under test: an authority that is made for the run and known to nobody else."""

from __future__ import annotations

import datetime as dt
import os
import ssl
import tempfile
from typing import NamedTuple


class Contexts(NamedTuple):
    """The two sides of a mutual TLS 1.3 handshake, as a deployment has them."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def make_contexts() -> Contexts:
    """Make an authority, a certificate under it, and the contexts of both sides; each accepts the other and nobody else."""
    # Late: only those who have links to other computers need it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "constellation.testing")])
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(owner: ec.EllipticCurvePrivateKey, subject: x509.Name, *, is_authority: bool) -> bytes:
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(owner.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(owner.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=is_authority,
                    crl_sign=is_authority,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .sign(authority_key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    authority = certificate(authority_key, name, is_authority=True)
    leaf = certificate(
        key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a process under test")]), is_authority=False
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    fd, path = tempfile.mkstemp(suffix=".pem")  # ssl takes a chain from a file only
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(private + leaf)
        return Contexts(
            _context(ssl.PROTOCOL_TLS_SERVER, path, authority.decode()),
            _context(ssl.PROTOCOL_TLS_CLIENT, path, authority.decode()),
        )
    finally:
        os.unlink(path)


def _context(protocol: ssl._SSLMethod, chain: str, authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # who is meant, the authority says, not a name in the DNS
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(chain)
    context.load_verify_locations(cadata=authority)
    return context
