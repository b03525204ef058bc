"""Print a token that begins one session at the pages, for the key in KELPIE_API_KEY (`kelpie_api.auth.sessions`).

A program of its own: `kelpie dev up` starts a stack, and the client imports nothing of the coordinator.
"""

from __future__ import annotations

import os

from kelpie_api.auth import sessions
from kelpie_api.db import Database


def main() -> None:
    db = Database(os.environ["DATABASE_URL"], connections=1)
    db.open()
    try:
        print(sessions.invite(db, os.environ["KELPIE_API_KEY"]))
    finally:
        db.close()


if __name__ == "__main__":
    main()
