"""A certificate authority and its certificates for one short-lived control plane, made with the ``openssl`` program.

Keys are elliptic (prime256v1): making one takes milliseconds, where RSA would take a good part of a second each.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_DAYS_VALID = 30
# Extensions come from this file alone: what the system's own openssl.cnf adds differs between distributions. Python
# 3.13 refuses an authority without keyUsage.
_EXTENSIONS = """\
[req]
distinguished_name = name
prompt = no
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign, digitalSignature
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class CertificateError(RuntimeError):
    """A certificate could not be made."""


@dataclass(frozen=True)
class Certificate:
    """Where a certificate and its private key lie, both PEM."""

    certificate: Path
    key: Path


class Authority:
    """A fresh certificate authority that keeps everything it makes in one folder."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            raise CertificateError("the program 'openssl' is not on the path: install the package openssl")
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "openssl.cnf").write_text(_EXTENSIONS)
        self.certificate = self._make("authority", "/CN=servingplan-e2e", "authority")

    def issue(
        self, name: str, *, user: str | None = None, group: str | None = None, hosts: tuple[str, ...] = ()
    ) -> Certificate:
        """A certificate that names a user (and a group) to the API server, or serves as one of ``hosts``."""
        subject = (f"/O={group}" if group else "") + f"/CN={user or name}"
        issued_by = ["-CA", str(self.certificate.certificate), "-CAkey", str(self.certificate.key)]
        if hosts:
            names = ",".join(f"{'IP' if host[0].isdigit() else 'DNS'}:{host}" for host in hosts)
            issued_by += ["-addext", f"subjectAltName={names}"]
        return self._make(name, subject, "leaf", *issued_by)

    def _make(self, name: str, subject: str, extensions: str, *options: str) -> Certificate:
        made = Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        command = ["openssl", "req", "-x509", "-config", str(self._folder / "openssl.cnf"), "-extensions", extensions]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(_DAYS_VALID)]
        command += ["-subj", subject, "-keyout", str(made.key), "-out", str(made.certificate), *options]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise CertificateError(f"openssl could not make the certificate of {name}: {done.stderr.strip()[-500:]}")
        return made
