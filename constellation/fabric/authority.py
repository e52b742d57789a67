"""Certificates of a fabric: one authority, and what it signs. The only file that uses ``cryptography``.

EC keys on P-256, signatures with SHA-256, TLS 1.3: what the standard library's `ssl` takes as it is. A leaf says its role in
one URI (`core/role.py`); names and addresses of computers are not in it, because nobody asks for them.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from constellation.core.preamble import KEY_BYTES, Purpose
from constellation.core.role import DEPLOYER, Identity, Role

AUTHORITY_DAYS: Final = 3650
SKEW: Final = dt.timedelta(hours=1)
"""A certificate is valid from so long before it is made, for computers whose clocks are behind."""


class Leaf(NamedTuple):
    """A certificate for one role."""

    identity: Identity
    expires: dt.datetime


class Authority:
    """Signs certificates of one fabric."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        self.certificate_pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.expires = certificate.not_valid_after_utc

    @classmethod
    def new(cls, now: dt.datetime) -> Authority:
        """Make the authority of a new fabric."""
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"constellation fabric {serial:040x}"[:33])])
        builder = _builder(name, name, key, serial, now, now + dt.timedelta(days=AUTHORITY_DAYS))
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(is_authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def from_pem(cls, certificate_pem: str, key_pem: str) -> Authority:
        """Read an authority.

        Raises:
            ValueError: They are not the certificate and the key of one authority.
        """
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        key = serialization.load_pem_private_key(key_pem.encode(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            raise ValueError("the authority's key does not belong to its certificate")
        return cls(certificate, key)

    @property
    def key_pem(self) -> str:
        """The private key. Only ever for a node's file."""
        return _key_pem(self._key)

    def sign(self, role: Role, now: dt.datetime, expires: dt.datetime) -> Leaf:
        """Make a key and a certificate for a role; it expires with the authority at the latest."""
        key = ec.generate_private_key(ec.SECP256R1())
        expires = min(expires, self.expires)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(role)[:64])])
        serial = x509.random_serial_number()
        builder = _builder(name, self._certificate.subject, key, serial, now, expires)
        authority_key = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        # A deployer never accepts a connection: with its certificate nobody can pose as a server.
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if role.kind != DEPLOYER:
            uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(role.uri)]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_key), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return Leaf(Identity(pem, _key_pem(key), self.certificate_pem), expires)


def preamble_keys(routing_key: bytes) -> dict[Purpose, bytes]:
    """The keys of the preambles, one for each purpose, of which none tells another (RFC 5869)."""
    return {
        purpose: HKDF(
            hashes.SHA256(), KEY_BYTES, salt=None, info=f"constellation preamble {purpose.name.lower()}".encode()
        ).derive(routing_key)
        for purpose in Purpose
    }


@functools.cache
def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    serial: int,
    now: dt.datetime,
    expires: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - SKEW)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
