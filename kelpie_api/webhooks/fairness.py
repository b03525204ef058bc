"""How the sender's threads are shared, so that a slow or dead receiver delays no other receiver's webhooks.

A lane is one user's way to one receiver. If the last try of a lane got no prompt answer it is a suspect until a
try gets one: it holds a thread for long with every webhook, so it gets one at a time, and all suspects together
get half of the threads. Nothing is known about a new receiver, so `take_webhooks` leaves threads for users that
have none: a user with half as many threads as are free gets no other one.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any
from uuid import UUID

from cachetools import FIFOCache

THREADS = 64
PROMPT = 2.0  # seconds in which an answer is no burden
OF_A_LANE = 4
OF_A_USER = 16
OF_SUSPECTS = 32
OF_A_USERS_SUSPECTS = 8
REMEMBERED_SUSPECTS = 1000


class Lanes:
    """What is under way in this process. Every method is safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: Counter[UUID] = Counter()
        self._users: Counter[UUID] = Counter()
        self._suspects: FIFOCache[UUID, UUID] = FIFOCache(REMEMBERED_SUSPECTS)  # lane: its user

    def begin(self, user_id: UUID, lane: UUID) -> None:
        with self._lock:
            self._lanes[lane] += 1
            self._users[user_id] += 1

    def end(self, user_id: UUID, lane: UUID, prompt: bool) -> None:
        with self._lock:
            for counter, key in ((self._lanes, lane), (self._users, user_id)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]
            self._suspects.pop(lane, None)
            if not prompt:
                self._suspects[lane] = user_id

    def room(self) -> dict[str, Any]:
        """How much may be taken now, as the statement `take_webhooks` asks: of all, of a lane, of a user.

        Lanes and users that are not named have room for `lane_cap` and `user_cap`.
        """
        with self._lock:
            lanes = {lane: OF_A_LANE - busy for lane, busy in self._lanes.items()} | self._turns()
            users = {user: OF_A_USER - busy for user, busy in self._users.items()}
            return {
                "batch": THREADS - self._lanes.total(),
                "lane_cap": OF_A_LANE,
                "user_cap": OF_A_USER,
                "lanes": list(lanes),
                "lane_rooms": list(lanes.values()),
                "users": list(users),
                "user_rooms": list(users.values()),
            }

    def _turns(self) -> dict[UUID, int]:
        """Which suspects may be tried now, in a fair draw: 1 or 0 for each."""
        trying = {lane: self._lanes[lane] for lane in self._suspects if self._lanes[lane]}
        left = OF_SUSPECTS - sum(trying.values())
        left_of = Counter(dict.fromkeys(self._suspects.values(), OF_A_USERS_SUSPECTS))
        for lane, threads in trying.items():
            left_of[self._suspects[lane]] -= threads
        turns = dict.fromkeys(self._suspects, 0)
        idle = [lane for lane in self._suspects if lane not in trying]
        for lane in random.sample(idle, len(idle)):
            user = self._suspects[lane]
            if left > 0 and left_of[user] > 0:
                turns[lane] = 1
                left -= 1
                left_of[user] -= 1
        return turns
