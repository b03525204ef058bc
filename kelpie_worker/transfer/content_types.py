"""The content type of a file, by its name: the same on every machine."""

import mimetypes

_BINARY = "application/octet-stream"
# For what jobs write Python's list has other programs' formats, or none. The machine's list is not asked.
_OF_JOBS = {
    ".bin": _BINARY,
    ".ckpt": _BINARY,
    ".cpt": _BINARY,
    ".dat": _BINARY,
    ".dcd": _BINARY,
    ".edr": _BINARY,
    ".gguf": _BINARY,
    ".h5": _BINARY,
    ".hdf5": _BINARY,
    ".npy": _BINARY,
    ".npz": _BINARY,
    ".onnx": _BINARY,
    ".out": "text/plain",
    ".pickle": _BINARY,
    ".pkl": _BINARY,
    ".pt": _BINARY,
    ".pth": _BINARY,
    ".safetensors": _BINARY,
    ".tpr": _BINARY,
    ".trr": _BINARY,
    ".xtc": _BINARY,
    ".log": "text/plain",
    ".md": "text/markdown",
    ".jsonl": "application/jsonl",
    ".yaml": "text/yaml",
    ".yml": "text/yaml",
}
# How the names of jobs' files end, the frequent ones first.
_FREQUENT = (".pt", ".ckpt", ".json", ".txt", ".csv", ".safetensors", ".log", ".npz", ".png", ".zip", ".tar")
_OTHERS = (".gz", ".tgz", ".parquet", ".mp4", ".jpg", ".pdb", ".gro", ".zst", *sorted(_OF_JOBS))
SUFFIXES_OF_JOBS = tuple(dict.fromkeys((*_FREQUENT, *_OTHERS)))
_ARCHIVES = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_list = mimetypes.MimeTypes()
for _suffix, _type in _OF_JOBS.items():
    _list.add_type(_type, _suffix)


def content_type(path: str) -> str:
    """The content type; application/octet-stream for a name that says nothing.

    A file that is an archive by its name stays one: nothing that reads it from the bucket is to unpack it.
    """
    guessed, archive = _list.guess_type(f"./{path}")  # else what is before a colon is taken for a scheme
    if archive:
        return _ARCHIVES.get(archive, _BINARY)
    return guessed or _BINARY
