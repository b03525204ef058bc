"""How many claims a second the database can serve, measured by pgbench, so that Python is no limit.

pgbench comes with the wheel of the embedded Postgres; it works with any server.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from bench.harness import GROUP
from local_stack.postgres import MAJOR_VERSION, wheel_folder

PROGRESS = re.compile(r"^progress: [\d.]+ s, ([\d.]+) tps", re.MULTILINE)


def claims_a_second(
    url: str, tenant_id: int, *, connections: int, seconds: int, window: int, folder: Path
) -> list[float]:
    """Claim without a pause over so many connections.

    Returns the claims a second in each window of so many seconds.
    """
    script = folder / "claim.sql"
    script.write_text(
        f"select id from hand_out_job({tenant_id}, '{GROUP}', 'machine-' || :client_id, gen_random_uuid(),"
        f" 'machine:machine-' || :client_id, null, array['{GROUP}', ''], null);\n"
    )
    program = wheel_folder() / f"pginstall{MAJOR_VERSION}" / "bin" / "pgbench"
    # The simple protocol, because the API uses no prepared statements either.
    arguments = f"--no-vacuum --protocol=simple --client={connections} --time={seconds} --progress={window}"
    ran = subprocess.run(
        [str(program), *arguments.split(), f"--file={script}"],
        env={**os.environ, **connection_environment(url)},
        capture_output=True,
        text=True,
    )
    if ran.returncode != 0:
        raise RuntimeError(f"pgbench failed:\n{ran.stderr}")
    return [float(rate) for rate in PROGRESS.findall(ran.stderr)]


def connection_environment(url: str) -> dict[str, str]:
    """An address as libpq's environment variables: every user can read the arguments of a process."""
    names = {
        option.keyword.decode(): option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar
    }
    return {names[word]: str(value) for word, value in conninfo_to_dict(url).items() if word in names}
