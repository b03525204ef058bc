"""The tests of both programs."""

import sys

# jsonschema imports it where it is installed, for the format "iri", which no specification here has. It makes 38
# parsers as it is imported, for a second and a half of every process that has the tests.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
