"""What the frozen worker lacks of botocore's data is nothing that it needs."""

from __future__ import annotations

import runpy
from pathlib import Path

import botocore
import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.regions import EndpointResolver

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
    assert "documentation" not in trimmed.load_service_model("s3", "service-2")
