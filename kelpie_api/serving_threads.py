"""The threads of a process that serve requests: any number of them, of which a few compute at the same time.

Python runs one thread at a time. Of hundreds that have something to compute each wakes every millisecond to ask
for its turn, and each answer waits for all the others: a process that gets many requests at once would answer
fewer a second than one that gets few, and so never be done with them. So only so many threads have a *place*, in
which they wait for a request or serve one; further requests wait in the kernel. A thread that waits for something,
such as a job, steps aside and has another take its place; so does one that has had its place for long, since its
client or the database is slow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

# Seconds that a thread keeps its place for one request: many times what is computed for most, so that the others
# need not wait for a database that takes ten milliseconds to answer.
SOON = 0.01
LONG = 0.05  # the same, once as many requests are under way as the database has connections, and more
STUCK = 0.25  # after which a request counts no more among these: a client that is slow needs no connection

Request = TypeVar("Request")
Later = Callable[[], object]  # to be called without the lock


class ServingThreads(Generic[Request]):
    """Threads that each take the next request (`wait`), serve it (`serve`), and so on.

    There are up to `most` of them, started when they are needed. `places` have one; where these are slow, up to
    `under_way` requests are begun soon, and others after LONG. `on_no_room` is told why the system had no room for
    a further thread.
    """

    def __init__(
        self,
        wait: Callable[[], Request],
        serve: Callable[[Request], None],
        most: int,
        places: int,
        under_way: int,
        on_no_room: Callable[[RuntimeError], None],
    ) -> None:
        self._wait, self._serve = wait, serve
        self._most, self._places, self._most_under_way = most, places, under_way
        self._on_no_room = on_no_room
        self._lock = threading.Lock()
        self._count = 0  # threads
        self._placed = 0  # of them: those with a place; more than there are, where some came back from aside
        self._waiting = 0  # of these: those that wait for a request
        self._since: dict[int, float] = {}  # threads that serve and are not aside: since when
        self._holding: set[int] = set()  # of these: those with a place
        self._parked: list[threading.Lock] = []  # threads with neither place nor request; the last one goes first
        self._is_full = threading.Event()  # no thread waits for a request, and there is no place for another
        self._is_watched = False

    def __len__(self) -> int:
        return self._count

    def ensure(self) -> None:
        """Have a thread wait for requests, if one should: at the start, and where there was no room for it."""
        with self._lock:
            later = self._another()
        if later:
            later()
        if not self._is_watched:
            self._is_watched = self._is_started(self._watch)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let another thread have the place of this one meanwhile, which waits for something."""
        me = threading.get_ident()
        with self._lock:
            self._end_serving(me)
            later = self._another()
        if later:
            later()
        try:
            yield
        finally:
            with self._lock:  # at once, beyond the places if need be: its request came before those that wait
                self._placed += me not in self._holding
                self._begin_serving(me)

    # --- in the threads that serve ---------------------------------------------------------------------

    def _keep_serving(self) -> None:
        """A thread; it begins with a place, and as one of those that wait for a request."""
        _of_this_thread.threads = self
        me = threading.get_ident()
        while True:
            try:
                request = self._wait()
            except BaseException:
                self._unreserve()  # so that `ensure` has another one started
                raise
            with self._lock:
                self._waiting -= 1
                self._begin_serving(me)
                later = self._another()
            if later:
                later()
            try:
                self._serve(request)
            except BaseException:
                self._count_out(me)
                raise
            with self._lock:
                self._placed += me not in self._holding
                self._forget(me)
                parked = self._parked_if_too_many()
            if parked:
                parked.acquire()  # until it is given a place, and is one of those that wait

    def _parked_if_too_many(self) -> threading.Lock | None:
        """What this thread has to acquire before it waits for a request, if there is no place for it."""
        if self._placed <= self._places:
            self._waiting += 1
            return None
        self._placed -= 1
        parked = threading.Lock()
        parked.acquire()
        self._parked.append(parked)
        if not self._waiting:
            self._is_full.set()
        return parked

    def _count_out(self, me: int) -> None:
        """This thread ends, by an error that its request should have been answered with."""
        with self._lock:
            self._count -= 1
            self._end_serving(me)
            later = self._another()
        if later:
            later()

    # --- with the lock held ------------------------------------------------------------------------------

    def _begin_serving(self, me: int) -> None:
        """With a place, which is counted already."""
        self._since[me] = time.monotonic()
        self._holding.add(me)

    def _end_serving(self, me: int) -> None:
        self._placed -= me in self._holding
        self._forget(me)

    def _forget(self, me: int) -> None:
        self._since.pop(me, None)
        self._holding.discard(me)

    def _another(self) -> Later | None:
        """What has another thread wait for requests, if none does and there is a place."""
        if self._waiting:
            return None
        if self._placed >= self._places:
            self._is_full.set()
            return None
        if self._parked:
            self._placed, self._waiting = self._placed + 1, self._waiting + 1
            return self._parked.pop().release
        return self._reserved() if self._count < self._most else None

    def _reserved(self) -> Later:
        self._count, self._placed, self._waiting = self._count + 1, self._placed + 1, self._waiting + 1
        return self._start

    # --- without it ----------------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._is_started(self._keep_serving):
            self._unreserve()

    def _unreserve(self) -> None:
        with self._lock:
            self._count, self._placed, self._waiting = self._count - 1, self._placed - 1, self._waiting - 1

    def _is_started(self, loop: Callable[[], None]) -> bool:
        try:
            threading.Thread(target=loop, name=loop.__name__, daemon=True).start()
        except RuntimeError as error:
            self._on_no_room(error)
            return False
        return True

    def _watch(self) -> None:
        """Have others take the places of threads that are slow, for as long as all places are taken."""
        while True:
            self._is_full.wait()
            time.sleep(SOON / 2)
            self._is_full.clear()
            self.pass_on(time.monotonic())

    def pass_on(self, now: float) -> None:
        """Have others take the places of threads that had them for too long by now (monotonic)."""
        with self._lock:
            room = self._most_under_way - sum(since >= now - STUCK for since in self._since.values())
            for thread in [thread for thread in self._holding if self._since[thread] < now - SOON]:
                if room > 0 or self._since[thread] < now - LONG:
                    self._holding.remove(thread)
                    self._placed, room = self._placed - 1, room - 1
            later = self._another()
        if later:
            later()


_of_this_thread = threading.local()


def is_serving() -> bool:
    """Whether this thread serves requests of gunicorn."""
    return hasattr(_of_this_thread, "threads")


@contextmanager
def aside() -> Iterator[None]:
    """Let another thread serve in place of this one, which waits for something that may take long, meanwhile.

    Does nothing in a thread that does not serve requests of gunicorn.
    """
    threads: ServingThreads[object] | None = getattr(_of_this_thread, "threads", None)
    if threads is None:
        yield
        return
    with threads.aside():
        yield
