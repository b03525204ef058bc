"""Deliver webhooks and have Salad reallocate bad machines, from their outboxes, until SIGTERM. Any number of these
may run."""

import os
import signal
import threading

import click

from kelpie_api import logs
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from kelpie_api.errors import ConfigError, SchemaError, WrongSecretKey
from kelpie_api.machines.reallocation import Reallocator
from kelpie_api.net.addresses import OwnAddresses
from kelpie_api.net.public_http import PublicHttp
from kelpie_api.salad.client import Salad
from kelpie_api.webhooks.sender import Sender


def reallocate(sender: Sender, reallocator: Reallocator) -> None:
    """Carry out reallocations, once the sender has checked schema and secret key of the database."""
    while not sender.fit and not sender.stopped.wait(0.2):
        continue
    reallocator.run()


@click.command(help=__doc__)
def main() -> None:
    try:
        config = Config.from_env(os.environ)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    logs.configure(config.log_level)
    db = Database(config.database_url)
    public_http = PublicHttp(config.webhook_allow_private, own=OwnAddresses(config.public_urls))
    sender = Sender(db, Seal(config.secret_key), public_http)
    reallocator = Reallocator(db, Salad(config.salad_api_url), config.salad_api_key, sender.stopped)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sender.stopped.set())
    db.open()
    logs.info("sender_started")
    beside = threading.Thread(target=reallocate, args=(sender, reallocator), name="reallocations")
    beside.start()
    try:
        sender.run()
    except (SchemaError, WrongSecretKey) as error:
        raise click.ClickException(str(error)) from None
    finally:
        sender.stopped.set()
        beside.join()
        db.close()
    logs.info("sender_stopped")
