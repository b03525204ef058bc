"""Large files that have grown and are sent whole again, beside the generations: no other file waits for them."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from kelpie_worker.transfer.file_upload import Prepared
from kelpie_worker.workspace.file_version import Signature


@dataclass(frozen=True)
class AsideUpload:
    """The upload of one version of a file, which takes the place of the version `over`."""

    path: str
    version: Signature
    over: Signature | None
    prepared: Future[Prepared]


class AsideUploads:
    """Prepares uploads, each in a thread of its own; their commits are the caller's."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        """`on_end` is called, in any thread, when an upload waits for its commit or has failed."""
        self._on_end = on_end
        self._under_way: list[AsideUpload] = []

    def begin(
        self, path: str, version: Signature, over: Signature | None, prepare: Callable[[], Prepared]
    ) -> None:
        upload = AsideUpload(path, version, over, Future())
        self._under_way.append(upload)
        threading.Thread(target=self._run, args=(upload, prepare), daemon=True, name="aside").start()

    def _run(self, upload: AsideUpload, prepare: Callable[[], Prepared]) -> None:
        try:
            prepared = prepare()
            prepared.ready()
            upload.prepared.set_result(prepared)
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            upload.prepared.set_exception(error)
        self._on_end()

    def forget(self) -> None:
        """Those that have not been returned by `ended` are not wanted any more."""
        self._under_way.clear()

    @property
    def paths(self) -> list[str]:
        return [upload.path for upload in self._under_way]

    def ended(self) -> AsideUpload | None:
        """One that has ended, well or not; each is returned once."""
        for upload in self._under_way:
            if upload.prepared.done():
                self._under_way.remove(upload)
                return upload
        return None
