"""What the frozen worker lacks of botocore's data is nothing that it needs."""

from __future__ import annotations

import runpy
from io import BytesIO
from pathlib import Path
from typing import Any

import botocore
import botocore.session
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.regions import EndpointResolver
from botocore.utils import parse_timestamp
from urllib3.response import HTTPResponse

from local_stack.processes import CHECKOUT

TRIM = runpy.run_path(str(CHECKOUT / "packaging" / "trim.py"))
DATA = Path(botocore.__file__).parent / "data"


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """Reads what the bundle has, and nothing else."""
    bundled, work = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("work")
    for source in DATA.rglob("*"):
        target = source.relative_to(DATA)
        if source.is_file() and TRIM["is_used"](str(Path("botocore", "data", target))):
            (bundled / target).parent.mkdir(parents=True, exist_ok=True)
            (bundled / target).write_bytes(TRIM["trimmed"](source, work).read_bytes())
    loader = Loader(include_default_search_paths=False)
    loader.search_paths.append(str(bundled))
    return loader


@pytest.mark.parametrize("service", TRIM["SERVICES"])
def test_every_operation_can_be_called_as_before(trimmed: Loader, service: str) -> None:
    after, before = (
        ServiceModel(loader.load_service_model(service, "service-2")) for loader in (trimmed, Loader())
    )
    assert after.operation_names == before.operation_names
    for name in before.operation_names:
        one, other = after.operation_model(name), before.operation_model(name)
        assert one.http == other.http
        for shape, complete in ((one.input_shape, other.input_shape), (one.output_shape, other.output_shape)):
            assert list(getattr(shape, "members", ())) == list(getattr(complete, "members", ()))
    assert trimmed.load_service_model(service, "endpoint-rule-set-1")


CALLS: dict[str, dict[str, Any]] = {
    "list_objects_v2": {"Prefix": "p/"},
    "get_object": {"Key": "k"},
    "head_object": {"Key": "k"},
    "put_object": {"Key": "k", "Body": b"1"},
    "create_multipart_upload": {"Key": "k"},
    "upload_part": {"Key": "k", "UploadId": "u", "PartNumber": 1, "Body": b"1"},
    "upload_part_copy": {
        "Key": "k",
        "UploadId": "u",
        "PartNumber": 1,
        "CopySource": {"Bucket": "bucket", "Key": "k"},
    },
    "list_parts": {"Key": "k", "UploadId": "u"},
    "complete_multipart_upload": {"Key": "k", "UploadId": "u", "MultipartUpload": {"Parts": []}},
    "abort_multipart_upload": {"Key": "k", "UploadId": "u"},
    "delete_object": {"Key": "k"},
}


@pytest.mark.parametrize("call", CALLS)
def test_the_workers_calls_are_sent_as_before(trimmed: Loader, call: str) -> None:
    assert sent(trimmed, call) == sent(Loader(), call)


def sent(loader: Loader, call: str) -> list[tuple[str, str, bytes]]:
    """Method, address and body of what the call sends; it is answered with 204."""
    requests = []

    def answer(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        body = request.body.read() if hasattr(request.body, "read") else request.body or b""
        requests.append((str(request.method), str(request.url), bytes(body)))
        return AWSResponse(str(request.url), 204, {}, HTTPResponse(BytesIO(), preload_content=False))

    session = botocore.session.Session()
    session.register_component("data_loader", loader)
    client = session.create_client("s3", "eu-central-1", aws_access_key_id="x", aws_secret_access_key="y")
    client.meta.events.register("before-send.s3", answer)
    getattr(client, call)(Bucket="bucket", **CALLS[call])
    return requests


def test_a_bucket_is_found_in_every_region(trimmed: Loader) -> None:
    after, before = (EndpointResolver(loader.load_data("endpoints")) for loader in (trimmed, Loader()))
    for partition in before.get_available_partitions():
        for service in ("s3", "sts"):
            regions = before.get_available_endpoints(service, partition)
            for region in regions:
                assert after.construct_endpoint(service, region) == before.construct_endpoint(service, region)


def test_most_of_it_is_left_out(trimmed: Loader) -> None:
    (folder,) = trimmed.search_paths
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    assert size < 200_000
    assert not trimmed.load_service_model("s3", "service-2")["documentation"]


@pytest.mark.parametrize("written", ["2026-11-29T20:53:23.5Z", "Sun, 29 Nov 2026 20:53:23 GMT", "1795985603.5"])
def test_times_are_read_without_the_names_of_zones(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not TRIM["is_used"]("dateutil/zoneinfo/dateutil-zoneinfo.tar.gz")
    asked: list[str] = []
    monkeypatch.setattr("dateutil.zoneinfo.getzoneinfofile_stream", lambda: asked.append("zones"))
    read = parse_timestamp(written)
    assert read.timestamp() // 1 == 1795985603 and asked == []
