"""The folder of the file in which a command says how far it is: one for each attempt, beside the state file.

A folder, so that the command can write a draft and rename it into the file's place; one for each attempt, so that
what a killed worker left is in no other job's way.
"""

from __future__ import annotations

from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.job import Job
from kelpie_worker.workspace.paths import own_name
from kelpie_worker.workspace.tree import delete


def progress_path(state_file: str, claim_id: str) -> str:
    return str(_folder(state_file, claim_id) / "progress.json")


def prepare(state_file: str, job: Job) -> None:
    """Make the folder, without what an earlier command of this attempt left. The job goes on if that fails."""
    remove(state_file, job)
    folder = _folder(state_file, job.claim_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logs.warn("progress_folder_not_made", job, path=str(folder), detail=str(error))


def remove(state_file: str, job: Job) -> None:
    """Remove the folder with all that the command put there, or in its place; links are not followed."""
    delete(str(_folder(state_file, job.claim_id)), job)


def _folder(state_file: str, claim_id: str) -> Path:
    return Path(state_file).parent / own_name("progress", claim_id)
