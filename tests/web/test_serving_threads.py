"""Threads that serve requests: few compute at the same time, and none keeps the others waiting for long."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from queue import SimpleQueue

import pytest

from kelpie_api.db import Database
from kelpie_api.errors import Unavailable
from kelpie_api.serving_threads import LONG, SOON, STUCK, ServingThreads, aside
from kelpie_api.web.live_parts import PLACES as PLACES_OF_PARTS
from kelpie_api.web.live_parts import Part, new_live_parts
from local_stack.processes import free_port, wait_for

Request = Callable[[], None]
PLACES, UNDER_WAY = 2, 4


class Scene:
    """Threads, the requests that wait for them, and those that are held until the test lets them go."""

    def __init__(self, most: int = 50) -> None:
        self.requests: SimpleQueue[Request] = SimpleQueue()
        self.said: list[str] = []
        self.threads = ServingThreads(
            self.requests.get,
            lambda request: request(),
            most,
            PLACES,
            UNDER_WAY,
            lambda e: self.said.append(str(e)),
        )
        self.begun = 0
        self.ended = 0
        self.lock = threading.Lock()
        self.let_go = threading.Event()

    def hold(self, stepping_aside: bool = False) -> None:
        def request() -> None:
            with self.counted():
                if stepping_aside:
                    with aside():
                        self.let_go.wait(30)
                else:
                    self.let_go.wait(30)

        self.requests.put(request)

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self.lock:
            self.begun += 1
        yield
        with self.lock:
            self.ended += 1

    def settled(self, begun: int) -> None:
        """Wait until so many requests have begun, and no thread is there that could begin another one."""
        wait_for(lambda: self.begun >= begun, f"{begun} requests to begin")
        wait_for(lambda: self.requests.empty() or not self.threads._waiting, "all threads to be busy")
        assert self.begun == begun


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Threads whose places are given away by the test."""
    monkeypatch.setattr(ServingThreads, "_watch", lambda self: None)
    scene = Scene()
    scene.threads.ensure()
    yield scene
    scene.let_go.set()


def test_as_many_requests_are_begun_as_there_are_places(scene: Scene) -> None:
    for _ in range(10):
        scene.hold()
    scene.settled(PLACES)
    assert len(scene.threads) == PLACES, "a thread that nothing is there for was started"
    scene.let_go.set()
    wait_for(lambda: scene.ended == 10, "all to be served")
    assert len(scene.threads) == PLACES


def test_a_thread_that_steps_aside_has_another_one_serve(scene: Scene) -> None:
    for _ in range(10):
        scene.hold(stepping_aside=True)
    scene.hold()
    scene.settled(11)
    scene.let_go.set()
    wait_for(lambda: scene.ended == 11, "all to be served")


def test_requests_that_wait_for_the_part_of_a_page_take_no_place(scene: Scene) -> None:
    parts = new_live_parts()

    def make() -> Part:
        assert scene.let_go.wait(30)
        return Part(b"", 200, False, b"")

    def part_of(address: int) -> None:
        with scene.counted():
            parts.get(address, 1, make, client=address)

    for address in range(PLACES_OF_PARTS):
        scene.requests.put(partial(part_of, address))
    scene.hold()
    scene.settled(PLACES_OF_PARTS + 1)
    scene.let_go.set()
    wait_for(lambda: scene.ended == PLACES_OF_PARTS + 1, "all to be served")


def test_requests_that_a_frozen_database_keeps_waiting_take_no_place_and_beyond_a_number_are_refused_at_once(
    scene: Scene, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kelpie_api.db.MOST_WAITING", 5)
    monkeypatch.setattr("kelpie_api.db.PATIENCE", 30)
    answered: list[object] = []

    def look() -> None:
        with scene.counted():
            try:
                answered.append(frozen.one_or_none("select 1 as one"))
            except Unavailable as error:
                answered.append(error.status)

    with closing(Database(db.url, connections=1)) as frozen:
        frozen.open()
        with frozen.transaction():
            frozen.last_back -= 60
            for _ in range(5):
                scene.requests.put(look)
            scene.settled(5)
            wait_for(lambda: frozen.pool.get_stats()["requests_waiting"] == 5, "all to wait for the connection")
            scene.requests.put(look)
            wait_for(lambda: answered == [503], "the one that is too many to be refused")
            scene.hold()
            scene.settled(7)
        wait_for(lambda: len(answered) == 6, "the others to be answered")
        assert answered == [503, *[{"one": 1}] * 5]


def test_after_an_outage_in_which_many_were_refused_requests_are_served_again(
    scene: Scene, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the pool counts of them: it makes a connection as soon as there is a server."""
    monkeypatch.setattr("kelpie_api.db.MOST_WAITING", 2)
    monkeypatch.setattr("kelpie_api.db.PATIENCE", 0.01)
    monkeypatch.setattr("kelpie_api.db.IMPATIENCE", 0.01)
    answered: list[object] = []

    def look() -> None:
        with scene.counted():
            try:
                answered.append(away.one_or_none("select 1 as one"))
            except Unavailable as error:
                answered.append(error.status)

    with closing(Database(f"postgresql://127.0.0.1:{free_port()}/none", connections=1)) as away:
        away.pool.reconnect_timeout = 0.1
        away.open()
        for count in range(1, 21):
            scene.requests.put(look)
            wait_for(lambda count=count: len(answered) == count, "the request to be answered")
        assert answered == [503] * 20
        wait_for(lambda: away.pool.get_stats()["pool_size"] == 0, "the pool to give up")
        away.pool.conninfo = db.url

        def is_served() -> bool:
            scene.requests.put(look)
            return {"one": 1} in answered

        wait_for(is_served, "a request to be served")


def test_after_they_stepped_aside_no_more_threads_serve_than_before(scene: Scene) -> None:
    for _ in range(10):
        scene.hold(stepping_aside=True)
    scene.settled(10)
    scene.let_go.set()
    wait_for(lambda: scene.ended == 10, "all to be served")
    scene.let_go.clear()
    for _ in range(10):
        scene.hold()
    scene.settled(10 + PLACES)


def test_slow_requests_have_others_begun_soon_up_to_a_limit_and_later_beyond_it(scene: Scene) -> None:
    for _ in range(10):
        scene.hold()
    scene.settled(PLACES)
    scene.threads.pass_on(time.monotonic() + SOON + 0.001)
    scene.settled(UNDER_WAY)
    scene.threads.pass_on(time.monotonic() + SOON + 0.001)
    scene.settled(UNDER_WAY)
    scene.threads.pass_on(time.monotonic() + LONG + 0.001)
    scene.settled(UNDER_WAY + PLACES)


def test_requests_that_are_stuck_keep_no_others_from_beginning_soon(scene: Scene) -> None:
    for _ in range(20):
        scene.hold()
    scene.settled(PLACES)
    for begun in range(PLACES, UNDER_WAY + PLACES, PLACES):
        scene.threads.pass_on(time.monotonic() + LONG + 0.001)
        scene.settled(begun + PLACES)
    with scene.threads._lock:
        scene.threads._since = dict.fromkeys(scene.threads._since, time.monotonic() - STUCK)
    scene.threads.pass_on(time.monotonic() + 0.001)
    scene.settled(UNDER_WAY + 2 * PLACES)
    scene.threads.pass_on(time.monotonic() + SOON + 0.001)
    scene.settled(UNDER_WAY + 3 * PLACES)


def test_a_place_that_was_given_away_is_not_given_back(scene: Scene) -> None:
    for _ in range(4):
        scene.hold()
    scene.settled(PLACES)
    scene.threads.pass_on(time.monotonic() + LONG + 0.001)
    scene.settled(4)
    scene.let_go.set()
    wait_for(lambda: scene.ended == 4, "all to be served")
    scene.let_go.clear()
    for _ in range(6):
        scene.hold()
    scene.settled(4 + PLACES)


def test_no_more_threads_are_started_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServingThreads, "_watch", lambda self: None)
    scene = Scene(most=3)
    scene.threads.ensure()
    for _ in range(6):
        scene.hold(stepping_aside=True)
    scene.settled(3)
    scene.let_go.set()
    wait_for(lambda: scene.ended == 6, "all to be served")
    assert len(scene.threads) == 3


def test_without_room_for_a_further_thread_those_that_are_there_go_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_thread)
        scene.hold()
        scene.hold()
        wait_for(lambda: bool(scene.said), "what is said of it")
        scene.settled(1)
    scene.let_go.set()
    wait_for(lambda: scene.ended == 2, "both to be served")
    scene.let_go.clear()
    for _ in range(5):
        scene.hold()
    scene.settled(2 + PLACES)


def test_once_there_is_room_again_a_thread_is_started_beside_those_that_wait_for_something(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_thread)
        scene.hold(stepping_aside=True)
        wait_for(lambda: len(scene.said) >= 2, "what is said at its begin, and as it steps aside")
    scene.hold()
    scene.settled(1)
    scene.threads.ensure()
    scene.settled(2)


def test_where_no_more_threads_may_be_started_one_that_is_done_has_its_place_looked_for(scene: Scene) -> None:
    """All came back from aside, beyond the places."""
    scene.threads._most = 4
    first, second = threading.Event(), threading.Event()

    def back_from_aside(until: threading.Event) -> None:
        with scene.counted():
            with aside():
                first.wait(30)
            until.wait(30)

    for until in (second, *[scene.let_go] * 3):
        scene.requests.put(partial(back_from_aside, until))
    scene.settled(4)
    first.set()
    wait_for(lambda: scene.threads._placed == 4, "all to be back")
    scene.hold()
    scene.threads._is_full.clear()
    second.set()
    wait_for(scene.threads._is_full.is_set, "the places to be looked at")
    scene.threads.pass_on(time.monotonic() + LONG + 0.001)
    scene.settled(5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_cannot_wait_for_requests_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServingThreads, "_watch", lambda self: None)
    scene = Scene()
    failures = [MemoryError(), MemoryError()]

    def wait() -> Request:
        if failures:
            raise failures.pop()
        return scene.requests.get()

    scene.threads._wait = wait
    scene.hold()

    def is_begun() -> bool:
        scene.threads.ensure()
        return scene.begun == 1

    wait_for(is_begun, "a thread to serve the request")
    assert not failures and len(scene.threads) <= PLACES
    scene.let_go.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_by_an_error_takes_no_place_with_it(scene: Scene) -> None:
    def fails() -> None:
        with scene.counted():
            raise SystemExit

    for _ in range(20):
        scene.requests.put(fails)
    scene.settled(20)
    for _ in range(5):
        scene.hold()
    scene.settled(20 + PLACES)
    assert len(scene.threads) == PLACES


def test_to_step_aside_within_stepping_aside_takes_one_place(scene: Scene) -> None:
    def nested() -> None:
        with scene.counted(), aside(), aside():
            pass

    for _ in range(20):
        scene.requests.put(nested)
    wait_for(lambda: scene.ended == 20, "all to be served")
    for _ in range(5):
        scene.hold()
    scene.settled(20 + PLACES)


def test_whatever_requests_wait_for_all_are_served_and_the_places_stay_as_many() -> None:
    """Really watched: none of them ends before twice as many as there are places have begun."""
    scene = Scene()
    scene.threads.ensure()
    for _ in range(2 * PLACES):
        scene.hold()
    wait_for(lambda: scene.begun >= 2 * PLACES, "slow requests to have others begun")
    scene.let_go.set()

    def strolling() -> None:
        with scene.counted():
            for _ in range(random.randrange(4)):
                with aside():
                    time.sleep(random.random() / 500)
                if random.random() < 0.02:
                    time.sleep(2 * LONG)

    for _ in range(2000):
        scene.requests.put(strolling)
    wait_for(lambda: scene.ended == 2000 + 2 * PLACES, "all to be served", timeout=60)
    wait_for(lambda: scene.threads._waiting == scene.threads._placed, "the last thread to be done")
    assert 1 <= scene.threads._placed <= PLACES
    assert not scene.threads._since and not scene.threads._holding


def test_in_a_thread_that_serves_no_requests_to_step_aside_does_nothing() -> None:
    with aside():
        pass
