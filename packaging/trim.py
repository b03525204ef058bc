"""botocore's data without what the worker has no use for: every client reads it into memory, and most is words.

Of the four hundred services that botocore describes, the bucket's stays, and those that credentials are asked of
(an assumed role or web identity; a login by SSO or in the console).
"""

import gzip
import json
from pathlib import Path
from typing import Any

SERVICES = ("s3", "sts", "sso", "sso-oidc", "signin")
# Resources and examples, which only clients of other kinds have; zones by name: botocore knows local time and UTC.
UNREAD = (("boto3", "data"), ("boto3", "examples"), ("dateutil", "zoneinfo"))
# Their names in botocore's list of endpoints of all services.
_ADDRESSES = ("s3", "sts", "portal.sso", "oidc", "signin")
_WORDS = "documentation"


def is_used(target: str) -> bool:
    """Whether a file of the bundle, by its path there, is anything that the worker reads."""
    parts = Path(target).parts
    if parts[:2] in UNREAD:
        return False
    if parts[:2] != ("botocore", "data") or len(parts) <= 3:
        return True
    return parts[2] in SERVICES and not parts[-1].startswith("examples-")


def trimmed(source: Path, folder: Path) -> Path:
    """The file to take in place of `source`: itself, or what is left of it, in `folder`."""
    if source.name == "endpoints.json":
        document = json.loads(source.read_bytes())
        for partition in document["partitions"]:
            services = partition["services"]
            partition["services"] = {name: services[name] for name in _ADDRESSES if name in services}
    elif source.name == "service-2.json.gz":
        document = without_words(json.loads(gzip.decompress(source.read_bytes())))
    else:
        return source
    target = folder / source.relative_to(source.parents[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(document, separators=(",", ":")).encode()
    target.write_bytes(gzip.compress(content, mtime=0) if source.suffix == ".gz" else content)
    return target


def without_words(shape: Any) -> Any:
    """A service's description with nothing said to people, but the place for it: botocore looks for that.

    A member of a structure may have the same name; that is an object.
    """
    if isinstance(shape, list):
        return [without_words(one) for one in shape]
    if isinstance(shape, dict):
        return {
            name: "" if name == _WORDS and isinstance(part, str) else without_words(part)
            for name, part in shape.items()
        }
    return shape
