"""The content type of a file, by its name."""

from __future__ import annotations

import pytest

from kelpie_worker.transfer.content_types import content_type

BINARY = "application/octet-stream"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("model.pt", BINARY),
        ("model.PT", BINARY),
        ("model.safetensors", BINARY),
        ("epoch=3-step=100.ckpt", BINARY),
        ("pytorch_model.bin", BINARY),
        ("arrays.npz", BINARY),
        ("weights.h5", BINARY),
        ("traj.xtc", BINARY),
        ("events.out.tfevents.1700000000.host.1.0", BINARY),
        ("noname", BINARY),
        ("v1.2/noname", BINARY),
        ("data:text,html", BINARY),
        ("a.json", "application/json"),
        ("lines.jsonl", "application/jsonl"),
        ("config.yaml", "text/yaml"),
        ("md.log", "text/plain"),
        ("image.png", "image/png"),
        ("table.csv", "text/csv"),
        ("all.tar", "application/x-tar"),
        ("all.tar.gz", "application/gzip"),
        ("all.tar.xz", "application/x-xz"),
        ("http://host/image.png", "image/png"),
    ],
)
def test_the_name_says_the_content_type(path: str, kind: str) -> None:
    assert content_type(path) == kind
