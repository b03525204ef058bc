"""What the user set about storage, in variables and in the files of the AWS programs, and where each comes from.

boto3 reads the same places (docs/worker.md, Storage, proxies and certificates). What is done here: empty variables
count as absent, Kelpie's defaults stay below everything that the user set, and what cannot be used is said in a
sentence with its source.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kelpie_worker.s3.errors import Misconfigured, StorageUnreachable, error_code
from kelpie_worker.s3.whose_fault import Says, said
from kelpie_worker.system.authorities import Authorities, UnusableAuthorities, authorities, named_by
from kelpie_worker.system.proxies import Proxy, UnusableProxy, proxy_for

if TYPE_CHECKING:
    from botocore.session import Session

_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")
_FILES = {"config_file": "AWS_CONFIG_FILE", "credentials_file": "AWS_SHARED_CREDENTIALS_FILE"}


@dataclass(frozen=True)
class Setting:
    value: str
    source: str  # the variable, or the profile with its file; else why it is so

    def __str__(self) -> str:
        return f"{self.value} ({self.source})"


class StorageSettings:
    """One reading of all places. Raises Misconfigured where one of them cannot be used.

    `region` is the one that the worker was started with; None: what the profile says.
    """

    def __init__(self, region: str | None) -> None:
        import botocore.session
        from botocore.exceptions import BotoCoreError

        from kelpie_worker.s3 import credential_process

        forget_empty_variables()
        credential_process.bound()
        self.session: Session = botocore.session.get_session()
        if region:  # also for services that credentials are asked of, which know AWS_DEFAULT_REGION only
            self.session.set_config_variable("region", region)
        try:
            self._check_files()
            self._profile: dict[str, Any] = self.session.get_scoped_config()
            self.endpoint = self._endpoint()
        except BotoCoreError as error:
            raise unusable(self._with_source(error)) from error
        self.region = self._region()
        self.checksums = {name: self._checksum(name) for name in _CHECKSUMS}
        self.authorities = self._authorities()
        self.session.set_config_variable("ca_bundle", self.authorities.file)

    @property
    def files(self) -> dict[str, Path]:
        """The two files by the variable that names another in their place; they need not exist."""
        return {
            variable: Path(os.path.expandvars(self.session.get_config_variable(name))).expanduser()
            for name, variable in _FILES.items()
        }

    @property
    def anything_is_set(self) -> bool:
        """Whether the user set anything that names a storage or a key for it."""
        files = any(file.exists() for file in self.files.values())
        return files or any(name.startswith("AWS_") for name in os.environ)

    def missing_files(self) -> Iterator[str]:
        """A sentence for each file that a variable names and that does not exist. That need not be a mistake."""
        for variable, file in self.files.items():
            if variable in os.environ and not file.exists():
                yield f"{variable} names {file}, which does not exist"

    def demand_credentials(self) -> str:
        """The kind of place that they come from, in boto3's word. boto3 would miss them at the first request only.

        Raises Misconfigured where there are none, and BotoCoreError where the place does not give them.
        """
        credentials = self.session.get_credentials()
        if credentials is None:
            without = "; ".join(
                ["there is no key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", *self.missing_files()]
            )
            raise unusable(without)
        _name_what_fails(credentials)
        return str(credentials.method)

    def proxy(self, url: str) -> Proxy | None:
        """The proxy for requests to the storage's address. Raises Misconfigured."""
        try:
            return proxy_for(url)
        except UnusableProxy as error:
            raise unusable(error) from error

    def check_authorities(self) -> None:
        """Raises Misconfigured."""
        try:
            self.authorities.check()
        except UnusableAuthorities as error:
            raise unusable(error) from error

    def _check_files(self) -> None:
        """boto3 takes a file that it may not read for one that is empty."""
        for variable, file in self.files.items():
            if file.is_dir() or (file.exists() and not os.access(file, os.R_OK)):
                raise unusable(f"{file} cannot be read; let this user read it, or set {variable}")

    def _endpoint(self) -> Setting | None:
        """The one of AWS's own is None."""
        from botocore.configprovider import ConfiguredEndpointProvider
        from botocore.utils import ensure_boolean

        if ensure_boolean(self.session.get_config_variable("ignore_configured_endpoint_urls")):
            return None
        full: Any = self.session.full_config
        url = ConfiguredEndpointProvider(full, self._profile, "s3").provide()
        if not url:
            return None
        variables = [name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)]
        source = variables[0] if variables else self._of_profile("endpoint_url")
        if not url.lower().startswith(("http://", "https://")):
            raise unusable(f"the endpoint of {source} must begin with http:// or https://, and is {url!r}")
        return Setting(url, source)

    def _region(self) -> Setting | None:
        region = self.session.get_config_variable("region")
        variables = [name for name in _REGION_VARIABLES if os.environ.get(name) == region]
        return Setting(region, variables[0] if variables else self._of_profile("region")) if region else None

    def _checksum(self, name: str) -> Setting:
        """What the user set. Else only the needed ones at another endpoint than AWS's: some providers refuse the
        headers that boto3 adds, and every upload has a Content-MD5 anyway."""
        variable = f"AWS_{name.upper()}"
        if value := os.environ.get(variable):
            return Setting(value.lower(), variable)
        if value := self._profile.get(name):
            return Setting(value.lower(), self._of_profile(name))
        if self.endpoint:
            return Setting("when_required", "the default for an endpoint that is named")
        return Setting("when_supported", "the default for AWS")

    def _authorities(self) -> Authorities:
        if path := os.environ.get("AWS_CA_BUNDLE"):
            return named_by("AWS_CA_BUNDLE", path)
        if path := self._profile.get("ca_bundle"):
            return named_by(f"ca_bundle of {self._of_profile('ca_bundle')}", path)
        return authorities()

    def _of_profile(self, name: str) -> str:
        """The profile, and the file that has this setting of it: the second one comes before the first."""
        from botocore.configloader import raw_config_parse

        profile = self.session.get_config_variable("profile") or "default"
        config, credentials = self.files.values()
        here = raw_config_parse(str(credentials)).get(profile, {}) if credentials.is_file() else {}
        return f"the profile {profile} in {credentials if name in here else config}"

    def _with_source(self, error: Exception) -> Exception | str:
        from botocore.exceptions import ProfileNotFound

        if not isinstance(error, ProfileNotFound):
            return error
        variable = next((name for name in ("AWS_DEFAULT_PROFILE", "AWS_PROFILE") if os.environ.get(name)), "")
        places = " nor in ".join(map(str, self.files.values()))
        return f"{variable} names the profile {os.environ.get(variable)}, which is neither in {places}"


def _name_what_fails(credentials: Any) -> None:
    """Have a key that cannot be renewed reported as that: a token's file that is gone, an answer that is no JSON.

    boto3 renews keys while it signs a request, where these errors would be taken for those of the job's files, and
    a refusal by the service that gives keys (STS, SSO) for one of the bucket. Where such a service cannot answer
    now, that is StorageUnreachable; all else is CredentialRetrievalError.
    """
    from botocore.exceptions import ClientError, CredentialRetrievalError, ParamValidationError

    look_up = credentials.get_frozen_credentials

    def named() -> Any:
        try:
            return look_up()
        except ConnectionError:
            raise
        except ClientError as error:
            if _may_pass(error.response):
                raise StorageUnreachable(f"{credentials.method} gives no key now: {error}") from error
            raise CredentialRetrievalError(provider=credentials.method, error_msg=str(error)) from error
        # botocore says with a RuntimeError that a key had expired when it was handed out.
        except (OSError, ValueError, ParamValidationError, RuntimeError) as error:
            raise CredentialRetrievalError(provider=credentials.method, error_msg=str(error)) from error

    credentials.get_frozen_credentials = named


def _may_pass(response: Any) -> bool:
    """Whether the service that gives keys has refused only for now, or something before it has answered."""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return said(status, error_code(response.get("Error", {}).get("Code"))) in (Says.LATER, Says.NOTHING)


def unusable(why: object) -> Misconfigured:
    return Misconfigured(f"the AWS_* variables cannot be used: {why}")


def forget_empty_variables() -> None:
    """Treat empty AWS_* variables as absent; boto3 would look for a profile with an empty name, for example.

    The command's environment is not affected: it descends from another process.
    """
    for name in [name for name, value in os.environ.items() if name.startswith("AWS_") and not value]:
        del os.environ[name]
