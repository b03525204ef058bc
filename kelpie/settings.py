"""Where the coordinator is and with which credential it is asked.

Each setting is taken from the first of these that has it: what the caller says (a flag, an argument), the
environment, the file `.kelpie.toml` of the working directory (which holds defaults and never a credential), the
profile in `$XDG_CONFIG_HOME/kelpie/config.toml`. A profile that a flag or a variable names counts directly after
these. A credential is taken whole from one place, never mixed from two. To an address that only the working
directory's file names goes no credential but the one that was kept for it: such files come with what was cloned.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kelpie.errors import SettingsError

DEFAULT_PROFILE = "default"
DEFAULTS_FILE = ".kelpie.toml"
CREDENTIALS = ("api_key", "salad_api_key")
# The names of the environment, in the order in which they count.
VARIABLES = {
    "api_url": ("KELPIE_API_URL",),
    "api_key": ("KELPIE_API_KEY",),
    "salad_api_key": ("SALAD_API_KEY",),
    "organization": ("SALAD_ORGANIZATION", "SALAD_ORGANIZATION_NAME"),
    "project": ("SALAD_PROJECT", "SALAD_PROJECT_NAME"),
    "group": ("SALAD_CONTAINER_GROUP_ID",),
    "profile": ("KELPIE_PROFILE",),
}
NO_ADDRESS = (
    "The coordinator's address is missing: run kelpie login, or set KELPIE_API_URL, for example to"
    " https://kelpie.example.com."
)
NO_CREDENTIAL = (
    "No credential was found: run kelpie login, or set KELPIE_API_KEY (or SALAD_API_KEY with"
    " SALAD_ORGANIZATION and"
    " SALAD_PROJECT)."
)
NOT_KEPT = (
    "No key is kept for {url}, which {file} names: run kelpie login --api-url {url}, or set KELPIE_API_URL to it,"
    " too."
)
Place = Mapping[str, Any]  # settings by their names, of one origin


@dataclass(frozen=True)
class Settings:
    """An address, a credential as headers (never shown by repr), and defaults for submissions.

    `profile` is the one that the credential came from, empty if it came from elsewhere.
    """

    api_url: str
    headers: Mapping[str, str] = field(repr=False)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    profile: str = ""


def config_file(environment: Mapping[str, str] = os.environ) -> Path:
    base = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME") or Path.home()) / ".config"
    return Path(base) / "kelpie" / "config.toml"


def find(
    *,
    api_url: str | None = None,
    api_key: str | None = None,
    profile: str | None = None,
    environment: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Settings:
    """The settings that count. Raises SettingsError in a sentence that says what is missing."""
    said = {"api_url": api_url, "api_key": api_key, "profile": profile}
    from_environment = {name: _first(environment, names) for name, names in VARIABLES.items()}
    defaults = read_defaults((folder or Path.cwd()) / DEFAULTS_FILE)
    chosen = said["profile"] or from_environment["profile"] or defaults.get("profile") or DEFAULT_PROFILE
    profiles = read_profiles(config_file(environment))
    if chosen not in profiles and (said["profile"] or from_environment["profile"]):
        raise SettingsError(f"There is no profile {chosen}; kelpie profiles lists those that there are.")
    places = _ranked(said, from_environment, defaults, profiles.get(chosen, {}))
    naming = next((place for place in places if place.get("api_url")), None)
    if naming is None:
        raise SettingsError(NO_ADDRESS)
    url, credentials, missing = with_scheme(str(naming["api_url"])), places, NO_CREDENTIAL
    if naming is defaults:
        chosen = _kept_for(url, profiles, chosen)
        credentials, missing = [said, profiles.get(chosen, {})], NOT_KEPT.format(url=url, file=DEFAULTS_FILE)
    giving = next((place for place in credentials if _credential(place)), None)
    if giving is None:
        raise SettingsError(missing)
    headers = _credential(giving) or {}
    if not all(text.isascii() and text.isprintable() for text in headers.values()):
        raise SettingsError("The key holds a character that no key has, such as a line break; copy it again.")
    submission = defaults.get("submit", {})
    group = next((_group(place) for place in places if _group(place)), None)
    profile = chosen if giving is profiles.get(chosen) else ""
    return Settings(url, headers, {**submission, **({"group": group} if group else {})}, profile)


def _ranked(said: Place, environment: Place, defaults: Place, profile: Place) -> list[Place]:
    """The places in the order in which they count; the profile stands where it was named."""
    places = [said, environment, defaults, profile]
    by = next((rank for rank in (0, 1) if places[rank]["profile"]), None)
    return places if by is None else [*places[: by + 1], profile, *places[by + 1 : 3]]


def _kept_for(url: str, profiles: Mapping[str, Place], chosen: str) -> str:
    """The name of the profile that was kept for an address: the chosen one, if it was; empty if there is none."""
    fitting = [
        name for name, kept in profiles.items() if kept.get("api_url") and with_scheme(kept["api_url"]) == url
    ]
    return chosen if chosen in fitting else next(iter(fitting), "")


def _group(place: Place) -> Any:
    return place.get("submit", {}).get("group") or place.get("group")


def with_scheme(url: str) -> str:
    """The address without a final slash; one without a scheme means https. Raises SettingsError."""
    url = url.strip().rstrip("/")
    if "://" not in url:
        url = f"https://{url}"
    if not url.startswith(("http://", "https://")) or len(url.split("://")[1]) == 0:
        raise SettingsError(f"The address {url} is none of a coordinator; it begins with https:// or http://.")
    return url


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def _credential(place: Place) -> dict[str, str] | None:
    """The headers of the credential of one place, or None. Raises SettingsError if a part of it is missing."""
    if place.get("api_key"):
        return {"X-Kelpie-Key": str(place["api_key"])}
    if not place.get("salad_api_key"):
        return None
    missing = [name for name in ("organization", "project") if not place.get(name)]
    if missing:
        raise SettingsError(
            f"A Salad API key comes with organization and project; missing: {' and '.join(missing)}."
        )
    return {
        "Salad-Api-Key": str(place["salad_api_key"]),
        "Salad-Organization": str(place["organization"]),
        "Salad-Project": str(place["project"]),
    }


def read_defaults(file: Path) -> dict[str, Any]:
    """The defaults of a working directory. Raises SettingsError if it holds a credential.

    Such files are shared.
    """
    defaults = _read(file)
    if found := [name for name in CREDENTIALS if name in defaults]:
        raise SettingsError(
            f"{file} holds {found[0]}, and such files are shared by accident; remove it there and run kelpie"
            f" login."
        )
    if not isinstance(defaults.get("submit", {}), dict):
        raise SettingsError(f"In {file} submit is a table: [submit], and below it fields such as priority = 5.")
    return defaults


def read_profiles(file: Path) -> dict[str, dict[str, Any]]:
    """The profiles of a user. Raises SettingsError if others can read the file."""
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}.") from error
    if stat.S_IMODE(mode) & 0o077:
        raise SettingsError(f"{file} holds keys and others can read it; run: chmod 600 {file}")
    profiles = _read(file).get("profiles", {})
    return {name: dict(profile) for name, profile in profiles.items() if isinstance(profile, dict)}


def write_profile(name: str, profile: Mapping[str, str] | None, file: Path) -> None:
    """Keep a profile, or remove it with None. The file is replaced whole, and only its owner can read it."""
    profiles = read_profiles(file)
    if profile is None:
        profiles.pop(name, None)
    else:
        profiles[name] = dict(profile)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = []
    for profile_name, values in sorted(profiles.items()):
        # Strings of JSON are strings of TOML.
        lines.append(f"[profiles.{json.dumps(profile_name, ensure_ascii=False)}]")
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in sorted(values.items())]
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".config-")
    with os.fdopen(handle, "w") as stream:
        stream.write("\n".join(lines) + "\n")
    Path(temporary).replace(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}.") from error
