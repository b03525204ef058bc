"""The frozen worker in containers, beside the API, Postgres and an S3 server in others, as machines come and go.

A job's outputs must have the bytes of a run that nothing ever happened to. At the end its history is read.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import docker
import pytest
from docker.models.networks import Network

from local_stack.processes import CHECKOUT, wait_for
from tests.containers.bucket import BucketServer
from tests.containers.compose import Compose
from tests.containers.fleet import (
    BUCKET,
    ENDLESS,
    INPUT,
    INPUT_PREFIX,
    SILENCE,
    STEPS,
    UNHURRIED,
    Fleet,
    Node,
    Way,
    expected,
)
from tests.containers.storm import Storm
from tests.frozen.conftest import binary, image_of  # noqa: F401 - a fixture
from tests.history import Rows, violations

EXAMPLE = CHECKOUT / "examples" / "container"
OLD_IMAGE = "kelpie-test/relay:bullseye"


@pytest.fixture(scope="module")
def bucket_network(running: Compose) -> Iterator[Network]:
    with closing(docker.from_env()) as client:
        network = client.networks.create(f"{running.project}_bucket")
        yield network
        network.remove()


@pytest.fixture(scope="module")
def bucket_server(
    running: Compose, bucket_network: Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BucketServer]:
    folder = tmp_path_factory.mktemp("objects") if os.environ.get("KELPIE_TEST_STORM_S3") == "rclone" else None
    server = BucketServer(running.python_image, bucket_network, folder)
    try:
        server.start()
        server.create_bucket(BUCKET)
        server.put(BUCKET, f"{INPUT_PREFIX}data", INPUT)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def image(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> str:  # noqa: F811
    """The example's, on an old base."""
    folder = tmp_path_factory.mktemp("image") / "container"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("dist"))
    (folder / "dist").mkdir()
    shutil.copy2(binary, folder / "dist")
    with closing(docker.from_env()) as client:
        client.images.build(path=str(folder), tag=OLD_IMAGE, buildargs={"BASE": image_of("bullseye")})
    return OLD_IMAGE


@pytest.fixture(scope="module")
def user_key(running: Compose) -> str:
    return running.new_key("fleet")


@pytest.fixture
def fleet(
    stack: Compose, bucket_server: BucketServer, bucket_network: Network, image: str, user_key: str
) -> Iterator[Fleet]:
    fleet = Fleet(stack, bucket_server, bucket_network, image, user_key)
    try:
        yield fleet
        print(fleet.logs())  # shown where the test fails
    finally:
        fleet.remove()


def history_is_clean(fleet: Fleet) -> None:
    with fleet.stack.database() as db:
        rows = Rows.read(db)
    ours = [job for job in rows.jobs if job["container_group"] == fleet.group]
    assert ours and violations(replace(rows, jobs=ours), []) == []
    assert [job["num_failures"] for job in ours] == [0] * len(ours)


def time_passes(seconds: float) -> None:
    """There is nothing to be seen of what must not happen."""
    time.sleep(seconds)


# --- the machine goes ------------------------------------------------------------------------------------


def test_another_machine_goes_on_where_a_killed_one_is_gone_with_all_its_files(fleet: Fleet) -> None:
    first = fleet.start_node("first")
    job = fleet.submit()
    fleet.wait_until_saved(job)
    first.kill()
    second = fleet.start_node("second")
    fleet.wait_until_completed(job)
    assert fleet.attempts(job) == [("first", "interrupted"), ("second", "completed")]
    assert "relay: resumed from step" in second.printed
    history_is_clean(fleet)


def test_a_killed_machine_that_is_started_again_goes_on_with_what_it_has(fleet: Fleet) -> None:
    node = fleet.start_node("only")
    job = fleet.submit(interval=UNHURRIED)
    fleet.wait_until_saved(job)
    unpacked = node.shell("ls -A /tmp").split()
    node.kill()
    node.start()
    fleet.wait_until_completed(job)
    assert fleet.attempts(job) == [("only", "completed")], "its lease was its own when it was back"
    assert len(node.seen("downloaded")) == 1, "nothing was downloaded again"
    wait_for(lambda: len(node.shell("ls -A /tmp").split()) == len(unpacked), "what it had unpacked before to go")
    history_is_clean(fleet)


def test_a_machine_that_is_shut_down_gives_its_job_back_at_once(fleet: Fleet) -> None:
    first = fleet.start_node("first")
    job = fleet.submit(steps=4 * STEPS, interval=UNHURRIED)
    fleet.wait_until_saved(job)
    fleet.start_node("second")
    assert first.stop() == 0
    assert fleet.attempts(job)[0] == ("first", "released")
    saved = fleet.saved_step(job)
    fleet.wait_until_completed(job, steps=4 * STEPS)
    assert fleet.attempts(job)[1:] == [("second", "completed")]
    assert f"relay: resumed from step {saved} of" in fleet.nodes["second"].printed, (
        "the last checkpoint was flushed"
    )
    history_is_clean(fleet)


# --- it comes back as a zombie -----------------------------------------------------------------------------


def paused(node: Node) -> Callable[[], None]:
    node.pause()
    return node.unpause


def cut_off(node: Node) -> Callable[[], None]:
    """It gets no answer from the API, and could still write into the bucket."""
    node.cut("api")
    return node.heal


@pytest.mark.parametrize("silence", [paused, cut_off])
def test_a_machine_that_was_given_up_changes_nothing_any_more(
    fleet: Fleet, silence: Callable[[Node], Callable[[], None]]
) -> None:
    first = fleet.start_node("first")
    job = fleet.submit(steps=3 * STEPS)
    fleet.wait_until_saved(job)
    comes_back = silence(first)
    second = fleet.start_node("second")
    fleet.wait_until_completed(job, steps=3 * STEPS)
    assert fleet.attempts(job) == [("first", "interrupted"), ("second", "completed")]
    assert second.stop() == 0
    before = fleet.everything_of(job)

    comes_back()
    first.wait_for("lease_lost")
    next_job = fleet.submit()
    fleet.wait_until_completed(next_job)  # by the machine that came back
    assert fleet.attempts(next_job) == [("first", "completed")]
    assert fleet.everything_of(job) == before
    history_is_clean(fleet)


# --- the network goes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", [("bucket",), ("api", "bucket")], ids="+".join)
def test_a_machine_that_is_not_replaced_goes_on_through_a_cut(fleet: Fleet, ways: tuple[Way, ...]) -> None:
    node = fleet.start_node("only")
    job = fleet.submit()
    fleet.wait_until_saved(job)
    node.cut(*ways)
    time_passes(2 * SILENCE)
    node.heal()
    fleet.wait_until_completed(job)
    assert fleet.attempts(job) == [("only", "completed")]
    assert node.printed.count("relay: ") == 1, "the command was never interrupted"
    history_is_clean(fleet)


# --- the servers go -----------------------------------------------------------------------------------------


def test_no_machine_loses_its_job_when_all_servers_go(fleet: Fleet) -> None:
    node = fleet.start_node("only")
    job = fleet.submit(steps=2 * STEPS)
    fleet.wait_until_saved(job)
    fleet.start_node("hungry").wait_for("child_started", child="uploader")
    fleet.bucket.pause()
    for service in ("api", "postgres"):
        fleet.stack.kill(service)
    time_passes(SILENCE + 1)
    for service in ("postgres", "api"):
        fleet.stack.start(service)
    fleet.bucket.unpause()
    fleet.wait_until_completed(job, steps=2 * STEPS)
    assert fleet.attempts(job) == [("only", "completed")]
    assert node.printed.count("relay: ") == 1, "the command was never interrupted"
    history_is_clean(fleet)


# --- several workers on a machine ---------------------------------------------------------------------------

RECIPE = """
mkdir one two
(cd one && KELPIE_STATE_FILE=/state-1.json exec kelpie) &
(cd two && KELPIE_STATE_FILE=/state-2.json exec kelpie) &
"""


@pytest.mark.parametrize(
    ("command", "first_process"),
    [
        (["sh", "-c", f"{RECIPE} wait"], "sh"),
        (["sh", "-c", f"{RECIPE} exec kelpie"], "kelpie"),
    ],
    ids=["shell", "kelpie"],
)
def test_several_workers_share_a_machine(fleet: Fleet, command: list[str], first_process: str) -> None:
    jobs = [fleet.submit(interval=UNHURRIED) for _ in range(4)]
    node = fleet.start_node("shared", command)
    for job in jobs:
        fleet.wait_until_completed(job)
        assert fleet.attempts(job) == [("shared", "completed")]
    assert first_process in node.shell("cat /proc/1/comm /proc/1/cmdline | tr '\\0' ' '")
    assert zombies(node.shell("cat /proc/[0-9]*/stat")) == []
    history_is_clean(fleet)


def test_several_workers_give_all_their_jobs_back_when_the_machine_is_shut_down(fleet: Fleet) -> None:
    jobs = [fleet.submit(steps=ENDLESS, interval=UNHURRIED) for _ in range(3)]
    node = fleet.start_node("shared", ["./several.sh", "3"])
    for job in jobs:
        fleet.wait_until_saved(job)
    assert node.stop() == 0
    assert [fleet.attempts(job) for job in jobs] == [[("shared", "released")]] * 3
    history_is_clean(fleet)


def zombies(stats: str) -> list[str]:
    return [line for line in stats.splitlines() if line.rpartition(")")[2].split()[0] == "Z"]


# --- everything at once -------------------------------------------------------------------------------------


@pytest.mark.timeout(0)
def test_a_storm_loses_nothing(fleet: Fleet) -> None:
    """A short one, or as long as KELPIE_TEST_STORM_S says; KELPIE_TEST_STORM_SEED makes another one.

    With KELPIE_TEST_STORM_S3=rclone the S3 server is killed as well.
    """
    storm = Storm(fleet, int(os.environ.get("KELPIE_TEST_STORM_SEED", "1")))
    storm.rage(float(os.environ.get("KELPIE_TEST_STORM_S", "45")))
    storm.calm()
    print(storm.sentence(), f"exit codes {storm.stopped}")
    for job, steps in storm.steps.items():
        assert fleet.outputs(job) == expected(steps), job
    history_is_clean(fleet)
