"""The bucket checks of `kelpie doctor`: each returns a sentence about what it saw, or raises CheckFailed.

They raise Misconfigured where the user's settings cannot be used.
"""

from typing import TYPE_CHECKING

from kelpie_worker.s3.client import client_by, connect
from kelpie_worker.s3.errors import error_code
from kelpie_worker.s3.settings import Setting, StorageSettings
from kelpie_worker.s3.whose_fault import Says
from kelpie_worker.s3.whose_fault import said as said_by
from kelpie_worker.system.proxies import reached

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client


class CheckFailed(Exception):
    """Something is wrong; the message says what to do."""


def settings(region: str | None) -> str:
    """What the user set, and where; not whether the storage agrees."""
    found = StorageSettings(region)
    if not found.anything_is_set:
        return "none: no AWS_* variable is set and there is no file of a profile; jobs that move files need a key"
    key = found.demand_credentials()
    url = client_by(found).meta.endpoint_url
    endpoint = Setting(url, found.endpoint.source if found.endpoint else "AWS's own")
    said = [f"endpoint {endpoint}", f"region {found.region or 'none'}", f"the key's place is {key}"]
    said += [f"{name} {setting}" for name, setting in found.checksums.items()]
    said.append(reached(url, found.proxy(url), found.authorities))
    return "; ".join([*said, *found.missing_files()])


def storage(region: str | None) -> str:
    """Check that the endpoint answers and accepts the key, as far as that is possible without a bucket."""
    if not StorageSettings(region).anything_is_set:
        return "not tried: nothing says where it is"
    from botocore.exceptions import BotoCoreError, ClientError

    client = connect(region)
    try:
        client.list_buckets()
    except ClientError as error:
        if _is_for_settings(error):
            raise CheckFailed(f"{error}; check this machine's AWS key, clock, region and endpoint") from error
    except (BotoCoreError, ValueError) as error:
        raise CheckFailed(f"the AWS_* variables are not usable: {error}") from error
    return f"{client.meta.endpoint_url} answers"


def _is_for_settings(error: "ClientError") -> bool:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return said_by(status, error_code(error.response.get("Error", {}).get("Code"))) is Says.SETTINGS


def write(client: "S3Client", bucket: str, key: str) -> str:
    from botocore.exceptions import BotoCoreError

    try:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    except client.exceptions.ClientError as error:
        raise CheckFailed(
            f"{error}; check the bucket's name, AWS_ENDPOINT_URL and what the AWS key may do"
        ) from error
    except BotoCoreError as error:
        raise CheckFailed(
            f"{error}; check AWS_ENDPOINT_URL, AWS_REGION, the network, proxies and certificate authorities"
        ) from error
    return f"{key} was stored"


def read(client: "S3Client", bucket: str, key: str) -> str:
    try:
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except client.exceptions.ClientError as error:
        raise CheckFailed(f"{error}; let the AWS key read there, or no job starts from its checkpoint") from error
    if body != key.encode():
        raise CheckFailed("what was stored came back changed: do not trust this storage with checkpoints")
    return "what was stored came back"


def conditional(client: "S3Client", bucket: str, key: str) -> str:
    """Never fails: without conditional writes, an attempt that lost its lease stops writing by itself."""
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"", IfNoneMatch="*")
    except client.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
            return "enforced: an attempt that lost its lease cannot overwrite its successor's files"
        return f"not known here ({error}); Kelpie goes without"
    return "not enforced; Kelpie goes without"


def delete(client: "S3Client", bucket: str, key: str) -> str:
    try:
        client.delete_object(Bucket=bucket, Key=key)
    except client.exceptions.ClientError as error:
        raise CheckFailed(f"{error}; delete {key} by hand, and let the AWS key delete") from error
    left = client.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
    if left:
        raise CheckFailed(f"{key} is still there: delete it by hand, and let the AWS key delete")
    return "the object is gone again"
