"""What the one file holds: each part, its version, and the texts of its licence.

PyInstaller says which files go into it. Each belongs to a Python package, to Python itself, to a package of
Debian's, or to Kelpie. A file that belongs to none stops the build: nothing is passed on without its licence.
"""

import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, distributions
from pathlib import Path

_LICENCES = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", re.IGNORECASE)
_COMMON = Path("/usr/share/common-licenses")
_REFERENCE = re.compile(rf"{_COMMON}/([A-Za-z0-9.-]*[A-Za-z0-9])")
_NAMED = re.compile(r"^License:[ \t]*(\S.*)$", re.MULTILINE)
_RULE = "=" * 100


@dataclass(frozen=True)
class Part:
    """`licence` is its name or names; `texts` are by their names; `inside` is what was compiled into it."""

    name: str
    version: str
    purl: str
    licence: str
    texts: dict[str, str] = field(default_factory=dict, hash=False, compare=False)
    inside: "tuple[Part, ...]" = ()


def parts_of(files: Iterable[Path], own: Collection[Path], bootloaders: Iterable[str]) -> list[Part]:
    """The parts that files belong to, but for those below our `own` folders; and the packages `bootloaders`, which
    put a program of theirs before the files. Raises SystemExit if a file's licence is not known."""
    found: set[Part] = {_of_distribution(_distribution(name)) for name in bootloaders}
    for file in files:
        if not any(file.is_relative_to(folder) for folder in own):
            found.add(_part(file))
    return sorted(found, key=lambda part: part.name.lower())


def libraries_of(program: Path) -> Iterator[Path]:
    """The shared libraries that a program needs, the one that loads the others among them."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    for path in re.findall(r"(/\S+) \(0x", said):
        yield Path(path)


def as_text(kelpie: Part, parts: Iterable[Part]) -> str:
    """What `kelpie licenses` prints. A text that several parts share stands there once."""
    pages, places = [], dict[str, str]()
    for part in (kelpie, *parts):
        pages.append(f"{_RULE}\n{part.name} {part.version}: {part.licence}\n{_RULE}")
        for name, text in part.texts.items():
            where = places.setdefault(text, f"{name} of {part.name}")
            same = where != f"{name} of {part.name}"
            pages.append(f"--- {name}\n\nThe same as {where}." if same else f"--- {name}\n\n{text.strip()}")
        if part.inside:
            lines = [f"{one.name} {one.version}: {one.licence}" for one in part.inside]
            pages.append("\n".join(["--- compiled into it", "", *lines]))
    pages += [f"{_RULE}\n{name}, which texts above refer to\n{_RULE}\n\n{text}" for name, text in _common(pages)]
    return "\n\n".join(pages) + "\n"


def _part(file: Path) -> Part:
    if _is_of_the_standard_library(file):
        return _python()
    if name := _owners().get(file.resolve()):
        return _of_distribution(_distribution(name))
    if package := _debian_package(file):
        return _of_debian(package)
    if file.resolve().is_relative_to(Path(sys.base_prefix).resolve()):
        return _python()
    sys.exit(f"freeze: no licence is known of {file}; build on Debian or Ubuntu, or in a container.")


# --- Python's packages ------------------------------------------------------------------------------------


@cache
def _owners() -> dict[Path, str]:
    """The package of each file that pip installed."""
    return {
        Path(str(one.locate_file(file))).resolve(): one.metadata["Name"]
        for one in distributions()
        for file in one.files or []
    }


@cache
def _distribution(name: str) -> Distribution:
    return Distribution.from_name(name)


@cache
def _of_distribution(one: Distribution) -> Part:
    name = one.metadata["Name"]
    texts = {
        str(file): file.read_text()
        for file in one.files or []
        if ".dist-info" in str(file) and _LICENCES.match(file.name)
    }
    if not texts:
        sys.exit(f"freeze: the package {name} brings no text of its licence.")
    short = {Path(path).name: text for path, text in texts.items()}
    purl = f"pkg:pypi/{name.lower()}@{one.version}"
    return Part(name, one.version, purl, _licence(one), short, tuple(_crates(one)))


def _licence(one: Distribution) -> str:
    """Its name, by the newest of the three ways to give it that the package uses."""
    about = one.metadata
    classes = [words for words in about.get_all("Classifier", []) if words.startswith("License ::")]
    named = about.get("License-Expression") or about.get("License") or ""
    classified = ", ".join(words.rpartition(" :: ")[2] for words in classes)
    return named if _is_name(named) else classified or "see its text"


def _is_name(text: str) -> bool:
    return bool(re.fullmatch(r"\w[^\n]{1,99}", text))


def _crates(one: Distribution) -> Iterator[Part]:
    """What Rust's compiler put into a package, by the list that the package brings along."""
    lists = [file for file in one.files or [] if file.parent.name == "sboms" and file.suffix == ".json"]
    for file in lists:
        for crate in json.loads(file.read_text())["components"]:
            terms = [entry.get("expression") or entry["license"].get("id") for entry in crate.get("licenses", [])]
            licence = " AND ".join(filter(None, terms)) or "see its source"
            yield Part(crate["name"], crate["version"], crate["purl"], licence)


# --- Python itself ----------------------------------------------------------------------------------------


def _is_of_the_standard_library(file: Path) -> bool:
    library = Path(sysconfig.get_path("stdlib")).resolve()
    inside = file.resolve().is_relative_to(library)
    return inside and not {"site-packages", "dist-packages"} & set(file.resolve().relative_to(library).parts)


@cache
def _python() -> Part:
    version = sys.version.split()[0]
    library = Path(sysconfig.get_path("stdlib"))
    text = library / "LICENSE.txt"
    if text.exists():
        texts = {text.name: text.read_text()}
        return Part("cpython", version, f"pkg:generic/cpython@{version}", "PSF-2.0", texts)
    package = _debian_package(library / "os.py")
    if not package:
        sys.exit(f"freeze: this Python has no {text}.")
    return _of_debian(package)


# --- Debian's packages ------------------------------------------------------------------------------------


@cache
def _debian_package(file: Path) -> str | None:
    """The package that a file came with; it may be known by the path it had before /lib became /usr/lib."""
    for path in (file, file.resolve(), Path("/usr", *file.parts[1:]), Path("/", *file.resolve().parts[2:])):
        try:
            said = subprocess.run(["dpkg", "--search", path], capture_output=True, text=True)
        except FileNotFoundError:
            return None
        if said.returncode == 0:
            return said.stdout.partition(":")[0]
    return None


@cache
def _of_debian(package: str) -> Part:
    asked = ["dpkg-query", "--show", "--showformat", "${Version}\n", package]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    text = Path("/usr/share/doc", package, "copyright").read_text(errors="replace")
    names = sorted({name.strip() for name in _NAMED.findall(text) if _is_name(name.strip())})
    licence = ", ".join(names) or "see its text"
    return Part(package, version, f"pkg:deb/debian/{package}@{version}", licence, {"copyright": text})


def _common(pages: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in sorted({name for page in pages for name in _REFERENCE.findall(page)}):
        if (_COMMON / name).exists():
            yield name, (_COMMON / name).read_text(errors="replace").strip()
