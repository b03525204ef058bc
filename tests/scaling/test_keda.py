"""Other fleets: KEDA's metrics-api scaler can read a group's numbers, and the example fits them.

The rules are those of KEDA's documentation of the scaler: `valueLocation` is a GJSON path to a number, or to a
string that holds one; with `authMode: apiKey` and `method: header` the key goes into the header `keyParamName`,
and comes from the parameter `apiKey` of the TriggerAuthentication. Kubernetes' own objects are held to its
published schemas; KEDA's are published only as code for Node, so what matters of them is stated here.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from jsonschema import Draft202012Validator

from kelpie_api.db import Database
from kelpie_worker.config import load
from tests.doubles.double import SPECS
from tests.helpers import Client, Tenant, make_job

FOLDER = Path(__file__).parents[2] / "examples" / "kubernetes"
API_VERSIONS = {
    "Secret": "v1",
    "Deployment": "apps/v1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
    "ScaledObject": "keda.sh/v1alpha1",
}
NAME = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # of an object, and of a label's value
NUMBERS = ("pending", "running", "active", "desired_replicas", "oldest_pending_seconds")

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def manifests() -> dict[str, Manifest]:
    files = (FOLDER / "worker.yaml", FOLDER / "scaling.yaml")
    found = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    assert sorted(document["kind"] for document in found) == sorted(API_VERSIONS)
    return {document["kind"]: document for document in found}


def at_path(answer: Any, gjson: str) -> Any:
    """What a plain GJSON path leads to."""
    assert re.fullmatch(r"\w+(\.\w+)*", gjson)
    for step in gjson.split("."):
        answer = answer[step]
    return answer


@pytest.fixture
def trigger(manifests: dict[str, Manifest]) -> Manifest:
    [trigger] = manifests["ScaledObject"]["spec"]["triggers"]
    return dict(trigger)


def test_the_scaler_asks_as_the_example_says_and_finds_a_number(
    api: Client, db: Database, tenant: Tenant, trigger: Manifest
) -> None:
    metadata = trigger["metadata"]
    assert trigger["type"] == "metrics-api"
    assert (metadata["authMode"], metadata["method"]) == ("apiKey", "header")
    group = urlsplit(metadata["url"]).path.split("/")[2]
    for state in ("pending", "pending", "held"):
        make_job(db, tenant, state, group=group)
    anonymous = Client(api.http, None)
    answer = anonymous.get(urlsplit(metadata["url"]).path, **{metadata["keyParamName"]: api.key})
    assert answer.status_code == 200
    value = at_path(answer.json, metadata["valueLocation"])
    assert value == 3
    assert value / float(metadata["targetValue"]) == 3  # pods


@pytest.mark.parametrize("location", NUMBERS)
def test_every_value_is_a_number_at_a_path_of_one_step(api: Client, location: str) -> None:
    value = at_path(api.get("/container-groups/trainers/metrics").json, location)
    assert isinstance(value, int | float) and not isinstance(value, bool)


def test_the_scaler_gets_no_number_without_the_key(api: Client) -> None:
    assert Client(api.http, None).get("/container-groups/trainers/metrics").status_code == 401


def test_a_pod_finds_the_worker_where_images_have_it_and_is_no_machine_of_salads(
    manifests: dict[str, Manifest],
) -> None:
    [container] = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    dockerfile = (FOLDER.parent / "container" / "Dockerfile").read_text()
    assert f"COPY dist/kelpie {container['command'][0]}\n" in dockerfile
    settings = {variable["name"]: variable.get("value", "from-the-secret") for variable in container["env"]}
    assert load(settings).imds_url is None


def test_every_value_of_a_triggers_metadata_is_a_string(trigger: Manifest) -> None:
    assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_each_object_has_its_api_version_and_a_name(manifests: dict[str, Manifest]) -> None:
    assert {kind: manifest["apiVersion"] for kind, manifest in manifests.items()} == API_VERSIONS
    assert all(NAME.fullmatch(manifest["metadata"]["name"]) for manifest in manifests.values())


def complaints(manifest: Manifest) -> list[str]:
    """What Kubernetes would say of an object of its own."""
    published = json.loads((SPECS / "kubernetes.json").read_text())
    schema = published["kinds"][manifest["kind"]] | {"$defs": published["$defs"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(manifest)]


@pytest.mark.parametrize("kind", ["Secret", "Deployment"])
def test_kubernetes_own_objects_are_as_its_schemas_say(manifests: dict[str, Manifest], kind: str) -> None:
    assert complaints(manifests[kind]) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec["template"]["spec"]["containers"][0].update(enviroment=[]),
        lambda spec: spec["template"]["spec"]["containers"][0]["env"].append({"name": "A", "value": 1}),
        lambda spec: spec["template"]["spec"].update(terminationGracePeriodSeconds="120"),
        lambda spec: spec.pop("selector"),
    ],
    ids=["an unknown field", "a number for a string", "a string for a number", "a missing field"],
)
def test_the_schemas_find_what_kubernetes_would_refuse(
    manifests: dict[str, Manifest], spoil: Callable[[Manifest], Any]
) -> None:
    deployment = copy.deepcopy(manifests["Deployment"])
    spoil(deployment["spec"])
    assert complaints(deployment)


@pytest.mark.parametrize("field", ["pollingInterval", "cooldownPeriod", "minReplicaCount", "maxReplicaCount"])
def test_kedas_counts_are_whole_numbers(manifests: dict[str, Manifest], field: str) -> None:
    assert type(manifests["ScaledObject"]["spec"][field]) is int


def test_the_objects_refer_to_each_other(manifests: dict[str, Manifest], trigger: Manifest) -> None:
    secret, authentication = manifests["Secret"], manifests["TriggerAuthentication"]
    [parameter] = authentication["spec"]["secretTargetRef"]
    assert parameter["parameter"] == "apiKey"
    assert parameter["name"] == secret["metadata"]["name"]
    assert parameter["key"] in secret["stringData"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    target = manifests["ScaledObject"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", manifests["Deployment"]["metadata"]["name"])


def test_the_pods_are_the_deployments_own_and_work_for_the_group_that_is_counted(
    manifests: dict[str, Manifest], trigger: Manifest
) -> None:
    spec = manifests["Deployment"]["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    assert "replicas" not in spec
    [container] = spec["template"]["spec"]["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert (
        variables["SALAD_CONTAINER_GROUP_ID"]["value"] == urlsplit(trigger["metadata"]["url"]).path.split("/")[2]
    )
    assert urlsplit(variables["KELPIE_API_URL"]["value"]).netloc == urlsplit(trigger["metadata"]["url"]).netloc
    for variable in variables.values():
        assert isinstance(variable.get("value", ""), str)
        if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
            assert reference["name"] == manifests["Secret"]["metadata"]["name"]
            assert reference["key"] in manifests["Secret"]["stringData"]
    grace = int(variables["KELPIE_SHUTDOWN_GRACE_S"]["value"])
    assert grace < spec["template"]["spec"]["terminationGracePeriodSeconds"]
