"""A client whose requests go to the application in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import httpx
import pytest
from flask import Flask

from kelpie import AsyncClient, Client
from kelpie.settings import Settings
from tests.helpers import Client as Http
from tests.helpers import Tenant


class InThread(httpx.AsyncBaseTransport):
    """A sync transport for an event loop."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self.transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        answer = await asyncio.to_thread(self.transport.handle_request, request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.read())


def settings_of(tenant: Tenant) -> Settings:
    return Settings("http://kelpie.test", {"X-Kelpie-Key": tenant.key}, {"group": "g1"})


@pytest.fixture
def api(app: Flask, tenant: Tenant) -> Iterator[Client]:
    with Client(settings=settings_of(tenant), transport=httpx.WSGITransport(app), patience=5) as client:
        yield client


@pytest.fixture
def new_async_api(app: Flask, tenant: Tenant) -> Callable[[], AsyncClient]:
    """Makes a client in the event loop that uses it."""
    return lambda: AsyncClient(
        settings=settings_of(tenant), transport=InThread(httpx.WSGITransport(app)), patience=5
    )


@pytest.fixture
def client(app: Flask, tenant: Tenant) -> Http:
    """A worker of the same tenant."""
    return Http(app.test_client(), tenant.key)
