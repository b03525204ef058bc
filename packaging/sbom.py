"""The list of what is in the one file, in the form that tools read which look for known flaws (CycloneDX)."""

import uuid
from collections.abc import Iterable
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from inventory import Part
from packageurl import PackageURL


def write(target: Path, kelpie: Part, parts: Iterable[Part]) -> None:
    bom = Bom(serial_number=uuid.uuid4())
    bom.metadata.component = _component(kelpie, ComponentType.APPLICATION)
    for part in parts:
        bom.components.add(_component(part, ComponentType.LIBRARY))
    bom.register_dependency(bom.metadata.component, bom.components)
    make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_to_file(str(target), True, indent=1)


def _component(part: Part, kind: ComponentType) -> Component:
    return Component(
        name=part.name,
        version=part.version,
        type=kind,
        purl=PackageURL.from_string(part.purl),
        bom_ref=part.purl,
        licenses=[DisjunctiveLicense(name=part.licence)],
        components=[_component(one, ComponentType.LIBRARY) for one in part.inside],
    )
