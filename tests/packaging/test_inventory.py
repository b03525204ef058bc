"""The one file is passed on with the licences of all that is in it, and with a list of it."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import botocore
import pytest
import regress
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from local_stack.processes import CHECKOUT


@pytest.fixture
def inventory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(CHECKOUT / "packaging")
    return importlib.import_module("inventory")


@pytest.fixture
def sbom(inventory: ModuleType) -> ModuleType:
    return importlib.import_module("sbom")


def test_a_file_of_a_package_brings_the_texts_of_its_licence(inventory: ModuleType) -> None:
    (part,) = inventory.parts_of([Path(botocore.__file__), Path(botocore.__file__).parent / "auth.py"], [], [])
    assert (part.name, part.version, part.licence) == ("botocore", botocore.__version__, "Apache-2.0")
    assert part.purl == f"pkg:pypi/botocore@{botocore.__version__}"
    assert "Apache License" in part.texts["LICENSE.txt"] and "Amazon" in part.texts["NOTICE"]


def test_what_was_compiled_into_a_package_is_named_too(inventory: ModuleType) -> None:
    (part,) = inventory.parts_of([Path(regress.__file__)], [], [])
    inside = {one.name: one.licence for one in part.inside}
    assert "MIT" in inside["pyo3"] and all(inside.values())


def test_the_standard_library_is_pythons(inventory: ModuleType) -> None:
    (part,) = inventory.parts_of([Path(os.__file__), Path(json.__file__)], [], [])
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in "".join(part.texts.values()).upper()


def test_a_program_of_the_system_is_its_packages(inventory: ModuleType) -> None:
    libraries = list(inventory.libraries_of(Path("/bin/sh").resolve()))
    assert any(library.name.startswith("libc.so") for library in libraries)
    parts = inventory.parts_of(libraries, [], [])
    assert [part.name for part in parts] == ["libc6"]
    assert "GNU Lesser General Public" in parts[0].texts["copyright"]


def test_a_bootloader_is_named_without_a_file_of_it(inventory: ModuleType) -> None:
    (part,) = inventory.parts_of([], [], ["pyinstaller"])
    assert part.name == "pyinstaller" and "bootloader" in part.texts["COPYING.txt"].lower()


def test_a_file_of_unknown_licence_stops_the_build_and_our_own_does_not(
    inventory: ModuleType, tmp_path: Path
) -> None:
    found = tmp_path / "found.so"
    found.write_bytes(b"")
    assert inventory.parts_of([found], [tmp_path], []) == []
    with pytest.raises(SystemExit, match=f"no licence is known of {found}"):
        inventory.parts_of([found], [], [])


def test_a_text_stands_there_once_and_what_it_refers_to_at_the_end(inventory: ModuleType) -> None:
    refers = "See /usr/share/common-licenses/Apache-2.0."
    parts = [
        inventory.Part("a", "1", "pkg:pypi/a@1", "X", {"LICENSE": "the same text"}),
        inventory.Part("b", "2", "pkg:pypi/b@2", "X", {"COPYING": "the same text", "copyright": refers}),
    ]
    text = inventory.as_text(inventory.Part("kelpie", "0", "pkg:generic/kelpie@0", "MIT", {}), parts)
    assert text.count("the same text") == 1
    assert "The same as LICENSE of a." in text
    assert text.index("kelpie 0: MIT") < text.index("a 1: X") < text.index("b 2: X")
    assert "Apache License" in text.partition("Apache-2.0, which texts above refer to")[2]


def test_the_list_is_valid_and_names_every_part(sbom: ModuleType, inventory: ModuleType, tmp_path: Path) -> None:
    kelpie = inventory.Part("kelpie", "0.1", "pkg:generic/kelpie@0.1", "MIT", {})
    parts = inventory.parts_of([Path(botocore.__file__), Path(regress.__file__), Path(os.__file__)], [], [])
    sbom.write(tmp_path / "list.json", kelpie, parts)
    written = (tmp_path / "list.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written) is None
    document = json.loads(written)
    assert document["metadata"]["component"]["name"] == "kelpie"
    assert {(one["name"], one["version"]) for one in document["components"]} == {
        (part.name, part.version) for part in parts
    }
