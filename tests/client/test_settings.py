"""Where settings come from, and which files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kelpie.errors import SettingsError
from kelpie.settings import config_file, find, read_profiles, write_profile

KEY = {"KELPIE_API_KEY": "from-environment"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def test_what_is_said_counts_before_the_environment_before_the_folder_before_the_profile(
    environment: dict[str, str], folder: Path
) -> None:
    write_profile("default", {"api_url": "https://profile", "api_key": "kept"}, config_file(environment))
    write_profile("lab", {"api_url": "https://folder", "api_key": "of-lab"}, config_file(environment))
    assert find(environment=environment, folder=folder).api_url == "https://profile"
    (folder / ".kelpie.toml").write_text('api_url = "https://folder"\n[submit]\npriority = 5\ngroup = "mine"\n')
    found = find(environment=environment, folder=folder)
    assert found.api_url == "https://folder" and found.defaults == {"priority": 5, "group": "mine"}
    assert (found.headers, found.profile) == ({"X-Kelpie-Key": "of-lab"}, "lab")
    environment |= {"KELPIE_API_URL": "https://environment", "SALAD_CONTAINER_GROUP_ID": "g", **KEY}
    found = find(environment=environment, folder=folder)
    assert found.api_url == "https://environment" and found.headers == {"X-Kelpie-Key": "from-environment"}
    assert found.defaults == {"priority": 5, "group": "g"}
    assert find(api_url="said", environment=environment, folder=folder).api_url == "https://said"


def test_two_projects_stand_side_by_side_by_their_profiles(environment: dict[str, str], folder: Path) -> None:
    for name in ("nlp", "vision"):
        write_profile(name, {"api_url": "https://a", "api_key": f"of-{name}"}, config_file(environment))
        (folder / name).mkdir()
        defaults = f'profile = "{name}"\n[submit]\nlabels = {{team = "{name}"}}\n'
        (folder / name / ".kelpie.toml").write_text(defaults)
    for name, other in (("nlp", "vision"), ("vision", "nlp")):
        found = find(environment=environment, folder=folder / name)
        assert (found.headers["X-Kelpie-Key"], found.defaults) == (f"of-{name}", {"labels": {"team": name}})
        asked = find(profile=other, environment=environment | KEY, folder=folder / name)
        assert asked.headers["X-Kelpie-Key"] == f"of-{other}", "a flag counts before the environment"
        asked = find(environment=environment | {"KELPIE_PROFILE": other}, folder=folder / name)
        assert (asked.headers["X-Kelpie-Key"], asked.profile) == (f"of-{other}", other)


def test_no_key_goes_to_an_address_that_only_the_folder_names(environment: dict[str, str], folder: Path) -> None:
    """Such a file may have come with what was cloned."""
    (folder / ".kelpie.toml").write_text('api_url = "https://elsewhere"\n')
    write_profile("default", {"api_url": "https://a", "api_key": "k"}, config_file(environment))
    for more in ({}, KEY, {"SALAD_API_KEY": "s", "SALAD_ORGANIZATION": "o", "SALAD_PROJECT": "p"}):
        with pytest.raises(SettingsError, match="No key is kept for https://elsewhere"):
            find(environment=environment | more, folder=folder)
    assert find(api_key="said", environment=environment, folder=folder).api_url == "https://elsewhere"


def test_the_names_of_salad_are_understood(environment: dict[str, str], folder: Path) -> None:
    environment |= {"KELPIE_API_URL": "https://a", "SALAD_API_KEY": "s", "SALAD_ORGANIZATION_NAME": "o"}
    with pytest.raises(SettingsError, match="missing: project"):
        find(environment=environment, folder=folder)
    environment["SALAD_PROJECT"] = "p"
    headers = find(environment=environment, folder=folder).headers
    assert headers == {"Salad-Api-Key": "s", "Salad-Organization": "o", "Salad-Project": "p"}


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [({"KELPIE_API_KEY": "k"}, "KELPIE_API_URL"), ({"KELPIE_API_URL": "https://a"}, "KELPIE_API_KEY")],
    ids=["no address", "no key"],
)
def test_what_is_missing_is_said_with_what_to_do(
    environment: dict[str, str], folder: Path, missing: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        find(environment=environment | missing, folder=folder)


def test_a_key_in_the_folders_file_is_refused(environment: dict[str, str], folder: Path) -> None:
    (folder / ".kelpie.toml").write_text('api_key = "secret"\n')
    with pytest.raises(SettingsError, match="shared by accident") as raised:
        find(environment=environment, folder=folder)
    assert "secret" not in str(raised.value)


def test_profiles_that_others_can_read_are_refused(environment: dict[str, str]) -> None:
    file = config_file(environment)
    write_profile("default", {"api_key": "k"}, file)
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_profiles(file)


def test_profiles_are_kept_whole(environment: dict[str, str]) -> None:
    file = config_file(environment)
    odd = {"api_url": 'https://a/"b"\\n', "api_key": "ключ 🔑"}
    write_profile('my "lab" [1]', odd, file)
    write_profile("b", {"api_url": "https://b"}, file)
    assert read_profiles(file) == {'my "lab" [1]': odd, "b": {"api_url": "https://b"}}
    write_profile("b", None, file)
    assert list(read_profiles(file)) == ['my "lab" [1]']
    with pytest.raises(SettingsError, match="no profile c"):
        find(profile="c", environment=environment, folder=file.parent)


def test_a_damaged_file_is_said_to_be_so(environment: dict[str, str], folder: Path) -> None:
    (folder / ".kelpie.toml").write_text("api_url = ")
    with pytest.raises(SettingsError, match="cannot be read"):
        find(environment=environment, folder=folder)


def test_settings_show_no_key() -> None:
    found = find(api_url="https://a", api_key="hidden", environment={"HOME": "/nonexistent"})
    assert "hidden" not in repr(found)
