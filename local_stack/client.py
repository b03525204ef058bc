"""A small client of the coordinator's API, for the demo and the tests."""

from typing import Any

import requests

Job = dict[str, Any]


class ApiUnavailableError(Exception):
    """The API does not answer, or says that its database does not."""


class ApiRefusedError(Exception):
    """The API answered with an error; the message is the API's own."""


class ApiClient:
    """Calls of one user. Every call raises ApiUnavailableError or ApiRefusedError on an error."""

    def __init__(self, url: str, key: str, timeout: float = 10) -> None:
        self.url = url
        self.key = key
        self._timeout = timeout  # seconds until an answer counts as none
        self._session = requests.Session()
        self._session.trust_env = False  # the stack is on this machine: no proxy is to be used
        self._session.headers["X-Kelpie-Key"] = key

    def submit(self, job: Job) -> Job:
        submitted: Job = self._call("POST", "/jobs", json=job)
        return submitted

    def submit_batch(self, jobs: list[Job]) -> list[Job]:
        submitted: list[Job] = self._call("POST", "/jobs/batch", json=jobs)
        return submitted

    def job(self, job_id: str) -> Job:
        job: Job = self._call("GET", f"/jobs/{job_id}")
        return job

    def jobs(self, **query: str | int) -> list[Job]:
        jobs: list[Job] = self._call("GET", "/jobs", params=query)["jobs"]
        return jobs

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        attempts: list[dict[str, Any]] = self._call("GET", f"/jobs/{job_id}/attempts")["attempts"]
        return attempts

    def events(self, job_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self._call("GET", f"/jobs/{job_id}/events")["events"]
        return events

    def progress(self, job_id: str) -> dict[str, Any]:
        """How far a job is, and from where to where it went at its last resume."""
        course: dict[str, Any] = self._call("GET", f"/jobs/{job_id}/progress")
        return course

    def usage(self, **query: str) -> dict[str, Any]:
        """What attempts cost that have ended."""
        found: dict[str, Any] = self._call("GET", "/usage", params=query)
        return found

    def set_price(self, group_id: str, price_per_hour: float) -> None:
        self._call("PATCH", f"/container-groups/{group_id}", json={"price_per_hour": price_per_hour})

    def cancel(self, job_id: str) -> None:
        self._call("DELETE", f"/jobs/{job_id}")

    def change(self, job_id: str, **fields: Any) -> None:
        """Change what was submitted of an open job."""
        self._call("PATCH", f"/jobs/{job_id}", json=fields)

    def steer(self, job_id: str, what: str) -> str:
        """Hold, resume or interrupt a job; returns what the API says will come of it."""
        return str(self._call("POST", f"/jobs/{job_id}/{what}")["message"])

    def create_scaling_rule(self, rule: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = self._call("POST", "/scaling-rules", json=rule)
        return made

    def scaling_decisions(self, group_id: str) -> list[dict[str, Any]]:
        """The decisions for a group, newest first."""
        found: list[dict[str, Any]] = self._call("GET", f"/scaling-rules/{group_id}/decisions")["decisions"]
        return found

    def create_user(self, username: str) -> str:
        """As admin: create a user; returns its id."""
        return str(self._call("POST", "/users", json={"username": username})["id"])

    def create_key(self, user_id: str, organization: str, project: str) -> str:
        """As admin: create an API key of that user for one project; returns it."""
        names = {"org_name": organization, "project_name": project}
        return str(self._call("POST", f"/users/{user_id}/token", json=names)["token"])

    def is_ready(self) -> bool:
        """Whether the API answers and reaches its database."""
        try:
            self._call("GET", "/readyz")
        except ApiUnavailableError:
            return False
        return True

    def _call(self, method: str, path: str, **content: Any) -> Any:
        try:
            answer = self._session.request(method, self.url + path, timeout=self._timeout, **content)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise ApiUnavailableError(f"{method} {path}: {error}") from error
        if answer.status_code == requests.codes.service_unavailable:
            raise ApiUnavailableError(f"{method} {path}: {answer.text}")
        if not answer.ok:
            raise ApiRefusedError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None
