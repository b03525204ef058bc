"""Proofs by Salad: that an API key is valid for a project, and that a container group is in a project.

A yes counts for some minutes, and for a day while Salad does not answer. It is stored in the database, so that all
processes share it and it survives restarts. A no counts for some seconds (docs/design/protocol.md, Callers).
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass

from kelpie_api import logs
from kelpie_api.cache import Cache
from kelpie_api.config import Config
from kelpie_api.db import SQL, Database
from kelpie_api.encryption import keys_in
from kelpie_api.errors import NoAnswer, Unavailable
from kelpie_api.net.single_flight import Budget, Flights
from kelpie_api.salad.client import Salad, SaladRefused, group_with, is_name
from kelpie_api.salad.request_budget import TOKEN, RequestBudget

KEPT_FOR = 24 * 3600.0  # seconds that a yes counts while Salad does not answer
REMEMBERED = 10_000
# Seconds to wait for Salad: for an unproven key, for a group, and where there is an older yes to fall back on.
KEY_PATIENCE, GROUP_PATIENCE, SHORT_PATIENCE = 6.0, 2.0, 1.0
# Seconds until Salad is asked again after it did not answer: with and without an older yes.
SILENCE, SILENCE_UNPROVEN = 10.0, 2.0
LONGEST_SILENCE = 60.0
# Anyone can make up keys, so questions about unproven keys are limited, and no other question waits for them.
UNPROVEN_AT_ONCE, MOST_UNPROVEN = 8, 32
# A machine may name any project beside its token, and the coordinator's own key asks about each of them: so there
# is a limit for each workload, some questions at once and then one in some seconds.
PROJECTS_AT_ONCE, PROJECT_PAUSE = 4, 15.0


@dataclass(frozen=True)
class Proof:
    """What is known about a question; times are monotonic, in seconds."""

    proven: float | None  # when Salad last said yes
    refused: bool
    ask_again: float

    def holds(self) -> bool:
        return self.proven is not None and time.monotonic() - self.proven < KEPT_FOR


Asking = Callable[[], Proof]
Question = tuple[bytes, ...]  # its digests: what is kept in the database of it, by each key that we have


class SaladKeys:
    """Asks Salad as rarely as the rules allow, and remembers the answers.

    Questions about proven keys, about unproven keys and about workloads have separate threads, so that none of the
    three kinds waits for another.
    """

    def __init__(self, db: Database, config: Config) -> None:
        self.db = db
        self.salad = Salad(config.salad_api_url)
        self.own_key = config.salad_api_key
        self.request_budget = RequestBudget(db, TOKEN)
        self.believed_for = config.proven_for.total_seconds()
        self.refused_for = config.refused_for.total_seconds()
        self.secrets = [
            hashlib.sha256(b"kelpie salad proofs\0" + key.encode()).digest() for key in keys_in(config.secret_key)
        ]
        self.unproven_keys = Flights(UNPROVEN_AT_ONCE, MOST_UNPROVEN)
        self.proven_keys = Flights()
        self.workloads = Flights()
        self.budgets: Cache[tuple[str, str], Budget] = Cache(REMEMBERED)
        self.remembered: Cache[Question, Proof] = Cache(REMEMBERED)
        self.warned = False

    def key_is_good(self, key: str, organization: str, project: str) -> bool:
        """Whether the key is valid for the project. Raises Unavailable if Salad has never answered about it."""
        question = self._question("key", key, organization, project)
        proof = self._proof(
            question,
            lambda: self._key_sees_project(key, organization, project),
            lambda known, asking: self._about_key(question, known, asking),
        )
        if not (proof.holds() or proof.refused):
            raise Unavailable(
                "Salad's API gives no answer about this Salad-Api-Key; send the request again in a moment."
            )
        return proof.holds()

    def has_workload(self, workload_id: str, organization: str, project: str) -> bool:
        """Whether the coordinator's own key finds this container group in the project; without an answer: no."""
        if not self._has_own_key() or not (is_name(organization) and is_name(project)):
            return False
        question = self._question("workload", workload_id, organization, project)
        budget = self._budget(workload_id, organization)
        return self._proof(
            question,
            lambda: self._project_has_group(workload_id, organization, project),
            lambda known, asking: self.workloads.ask(
                question, asking, SHORT_PATIENCE if known.holds() else GROUP_PATIENCE, budget
            ),
        ).holds()

    def end(self) -> None:
        for flights in (self.unproven_keys, self.proven_keys, self.workloads):
            flights.end()

    def _about_key(self, question: Question, known: Proof, asking: Asking) -> Proof:
        if known.holds():
            return self.proven_keys.ask(question, asking, SHORT_PATIENCE)
        return self.unproven_keys.ask(question, asking, KEY_PATIENCE)

    def _budget(self, workload_id: str, organization: str) -> Budget:
        """The limit of questions about one workload, whatever projects its machines name."""
        return self.budgets.get_or_put((organization, workload_id), Budget(1 / PROJECT_PAUSE, PROJECTS_AT_ONCE))

    def _has_own_key(self) -> bool:
        if self.own_key is None and not self.warned:
            self.warned = True
            logs.warning(
                "no_salad_api_key",
                message="SALAD_API_KEY is not set: machines that call with a token get no jobs of the null group.",
            )
        return self.own_key is not None

    def _question(self, *parts: str) -> Question:
        """Keyed digests of the parts with their lengths, so that no two questions share a digest."""
        encoded = [part.encode("utf-8", "surrogateescape") for part in parts]
        message = b"".join(len(part).to_bytes(8, "big") + part for part in encoded)
        return tuple(hmac.digest(secret, message, "sha256") for secret in self.secrets)

    def _proof(
        self, question: Question, ask_salad: Callable[[], bool], send: Callable[[Proof, Asking], Proof]
    ) -> Proof:
        """What is known about a question, after asking Salad if that is due.

        `ask_salad` is the request to Salad; `send` runs it in the threads for this kind of question.
        """
        known = self.remembered.get(question)
        if known and known.ask_again > time.monotonic():
            return known
        known = self._recall(question)
        if known.ask_again > time.monotonic():
            return known
        try:
            return send(known, lambda: self._ask(question, ask_salad, known))
        except NoAnswer:
            return known

    def _recall(self, question: Question) -> Proof:
        """The stored answer, from this process or another."""
        kept = self.db.one_or_none(SQL.recall_proof, digests=list(question))
        if kept is None:
            return Proof(None, refused=False, ask_again=0.0)
        proven = time.monotonic() - kept["age"]
        proof = Proof(proven, refused=False, ask_again=proven + self.believed_for)
        if proof.ask_again > time.monotonic():
            self.remembered.put(question, proof)
        return proof

    def _ask(self, question: Question, ask_salad: Callable[[], bool], known: Proof) -> Proof:
        told = self.remembered.get(question)
        if told and told.ask_again > time.monotonic():  # another thread got the answer in between
            return told
        try:
            confirmed = ask_salad()
        except NoAnswer as silence:
            logs.warning("salad_silent", reason=str(silence))
            return self.remembered.put(question, after_silence(known, silence))
        if not confirmed:
            # Remembered before the stored proof is dropped: a request that misses the proof then finds the
            # refusal.
            refusal = self.remembered.put(question, Proof(None, True, time.monotonic() + self.refused_for))
            self.db.execute(SQL.drop_proof, digests=list(question))
            return refusal
        self.db.execute(SQL.keep_proof, digest=question[0])
        self.db.execute(SQL.forget_proofs)
        now = time.monotonic()
        return self.remembered.put(question, Proof(now, False, now + self.believed_for))

    def _key_sees_project(self, key: str, organization: str, project: str) -> bool:
        try:
            self.salad.container_groups(key, organization, project)
        except SaladRefused:
            return False
        return True

    def _project_has_group(self, workload_id: str, organization: str, project: str) -> bool:
        try:
            groups = self.request_budget.ask(
                lambda: self.salad.container_groups(self.own_key or "", organization, project)
            )
        except SaladRefused as refusal:
            if refusal.status == 401:  # our own key is wrong, which says nothing about the group
                raise NoAnswer("Salad does not know the coordinator's SALAD_API_KEY") from refusal
            return False
        return group_with(groups, workload_id) is not None


def after_silence(known: Proof, silence: NoAnswer) -> Proof:
    pause = SILENCE if known.holds() else SILENCE_UNPROVEN
    pause = max(pause, min(silence.retry_after, LONGEST_SILENCE))
    return Proof(known.proven, refused=False, ask_again=time.monotonic() + pause)
