"""The certificate authorities that TLS connections are checked against: one rule for the API and for the bucket.

Without a setting they are Mozilla's, which the worker brings along (certifi). The libraries that send the requests
know REQUESTS_CA_BUNDLE only, or AWS_CA_BUNDLE before it; other programs in the container read SSL_CERT_FILE.
"""

import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import certifi

from kelpie_worker.system.frozen import kept

_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # the first that is set alone; these replace OpenSSL's
_OPENSSLS = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # both together
_OWN = "Mozilla's, which are a part of kelpie"
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


class UnusableAuthorities(ValueError):
    """No certificate can be read where a setting says that they are; a sentence names the setting."""


@dataclass(frozen=True)
class Authorities:
    """Certificates: `named` is the path that the setting `source` has, None if there is no setting.

    `file` is what to give to a library: one file, also where a directory is named.
    """

    file: str
    named: str | None
    source: str

    def __str__(self) -> str:
        return f"the certificates in {self.named} ({self.source})" if self.named else self.source

    def check(self) -> None:
        """Raises UnusableAuthorities."""
        if self.named is None:
            return
        try:
            ssl.create_default_context(cafile=self.file)
        except OSError as error:  # an SSLError is one
            why = "no certificate is in it" if isinstance(error, ssl.SSLError) else error.strerror
            raise UnusableAuthorities(f"{self.source} names {self.named}: {why}.") from error


def authorities(environment: Mapping[str, str] = os.environ) -> Authorities:
    """Those that the variables name, else our own."""
    for variable in _VARIABLES:
        if path := environment.get(variable):
            return named_by(variable, path)
    named = [variable for variable in _OPENSSLS if environment.get(variable)]
    if named:
        file, directories = (environment.get(variable, "") for variable in _OPENSSLS)
        return named_by(" and ".join(named), *filter(None, [file, *directories.split(":")]))
    return Authorities(kept(certifi.where()), None, _OWN)


def named_by(source: str, *paths: str) -> Authorities:
    """Those in the files and directories that a setting names."""
    if len(paths) == 1 and not Path(paths[0]).is_dir():
        return Authorities(paths[0], paths[0], source)
    return Authorities(_joined(paths), " and ".join(paths), source)


@cache
def _joined(paths: tuple[str, ...]) -> str:
    """The path of one file, in memory, with all certificates: boto3 reads no directories."""
    content = b"\n".join({file.resolve(): file.read_bytes() for path in paths for file in _files(path)}.values())
    copy = os.memfd_create("authorities")
    with open(copy, "wb", closefd=False) as file:
        file.write(content)
    return f"/proc/self/fd/{copy}"


def _files(path: str) -> Iterator[Path]:
    for file in sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]:
        try:
            if file.is_file() and _CERTIFICATE in file.read_bytes():
                yield file
        except OSError:  # closed to this user; `check` says so if it was the only one
            continue
