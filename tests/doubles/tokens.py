"""Salad's metadata service as a machine sees it, and the public keys that prove its tokens."""

from __future__ import annotations

import argparse
import json
import threading
import time
import uuid
from typing import Any, ClassVar

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from werkzeug.wrappers import Request, Response

from tests.doubles.double import Double

ISSUER = "https://matrix-api.salad.io"
JWKS = "/.well-known/workload-jwks.json"


class SigningKey:
    """One of the service's keys."""

    def __init__(self) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.kid = uuid.uuid4().hex

    @property
    def jwk(self) -> dict[str, Any]:
        public = jwt.algorithms.ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {"kid": self.kid, "alg": "ES256", "use": "sig", **public}


class TokenDouble(Double):
    """Serves one machine (`organization`, `workload`, `machine`): issues tokens, takes its requests to Salad."""

    spec: ClassVar[str] = "salad-cloud-imds.yaml"
    host: ClassVar[str] = "http://169.254.169.254/"
    unspecified: ClassVar[frozenset[str]] = frozenset({JWKS})

    def __init__(self, port: int = 0) -> None:
        self.organization = "acme"
        self.organization_id = str(uuid.uuid4())
        self.workload = str(uuid.uuid4())
        self.machine = str(uuid.uuid4())
        self.key = SigningKey()
        self.published = [self.key.jwk]
        self.life = 300  # seconds of a token
        self.costs: list[int] = []  # the deletion costs that were set, in order
        self.departures: list[str] = []
        super().__init__(port)

    @property
    def jwks_url(self) -> str:
        return self.url + JWKS

    @property
    def fetches(self) -> int:
        """How often the keys were asked for."""
        return self.asked.count(JWKS)

    def rotate(self) -> None:
        """A new key signs from now on, and only it is published."""
        self.key = SigningKey()
        self.published = [self.key.jwk]

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What a token says; a change to None leaves the claim out."""
        now = int(time.time())
        usual = {
            "iss": ISSUER,
            "aud": self.organization_id,
            "sub": self.machine,
            "iat": now,
            "nbf": now,
            "exp": now + self.life,
            "salad_organization_name": self.organization,
            "salad_organization_id": self.organization_id,
            "salad_workload_id": self.workload,
            "salad_machine_id": self.machine,
        }
        return {name: value for name, value in (usual | changes).items() if value is not None}

    def token(self, **changes: Any) -> str:
        return jwt.encode(self.claims(**changes), self.key.private, "ES256", {"kid": self.key.kid})

    def respond(self, request: Request) -> Response:
        match request.method, request.path:
            case "GET", "/v1/token":
                return json_of({"jwt": self.token()})
            case "GET", "/v1/status":
                return json_of({"ready": True, "started": True})
            case "PUT", "/v1/deletion-cost":
                self.costs.append(request.get_json()["deletion_cost"])
                return Response(status=204)
            case "POST", "/v1/reallocate":
                self.departures.append(f"reallocate: {request.get_json()['reason']}")
                return Response(status=204)
            case "POST", "/v1/recreate":
                self.departures.append("recreate")
                return Response(status=204)
            case "GET", path if path == JWKS:
                return json_of({"keys": self.published})
        raise AssertionError(f"{request.method} {request.path} is not stood for yet")


def json_of(value: Any) -> Response:
    return Response(json.dumps(value), mimetype="application/json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--organization", default="acme")
    double = TokenDouble(parser.parse_args().port)
    double.organization = parser.parse_args().organization
    print(json.dumps({"imds": double.url, "jwks": double.jwks_url, "workload": double.workload}), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
