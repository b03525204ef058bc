"""A receiver of webhooks, and a sender that may reach it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from kelpie_api.net.public_http import PublicHttp
from kelpie_api.webhooks.sender import Sender
from tests.api.receiver import Receiver, receiving
from tests.conftest import SECRET_KEY


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def sender(db: Database) -> Sender:
    return Sender(db, Seal(SECRET_KEY), PublicHttp(allow_private=True))
