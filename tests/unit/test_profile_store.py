"""Where profiles live, what a broken one says, and which one fits a machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgetune.devices.device_profile import profile_name, this_machine
from edgetune.devices.profile_store import (
    find_for_this_machine,
    load_profile,
    match_profile,
    profile_files,
    read_profile,
    save_profile,
    shipped_folder,
    to_toml,
)
from edgetune.utils.errors import ProfileError, UsageError
from tests.profile_samples import MACHINE, SHAPE, VERSIONS, make_backend, make_profile


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's own profiles and shipped ones out."""
    monkeypatch.setenv("EDGETUNE_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setattr("edgetune.devices.profile_store.shipped_folder", lambda: None)
    return tmp_path / "profiles"


def test_what_is_saved_reads_back_the_same(home: Path) -> None:
    profile = make_profile()
    path = save_profile(profile)
    assert path == home / "some.toml"
    assert load_profile("some") == profile
    assert load_profile(path) == profile
    assert load_profile(str(path)) == profile
    assert [item.name for item in home.iterdir()] == ["some.toml"]


def test_the_folder_of_shipped_profiles_is_found_in_a_checkout() -> None:
    found = shipped_folder()
    assert found is not None
    assert (found / "README.md").is_file()


def test_every_shipped_profile_makes_sense() -> None:
    folder = shipped_folder()
    assert folder is not None
    for path in folder.glob("*.toml"):
        assert read_profile(path).name == path.stem


def test_the_users_own_go_before_shipped_ones(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    monkeypatch.setattr("edgetune.devices.profile_store.shipped_folder", lambda: shipped)
    save_profile(make_profile("a"), shipped / "a.toml")
    save_profile(make_profile("b"), shipped / "b.toml")
    save_profile(make_profile("a", start_s=9.0))
    assert load_profile("a").start_s == 9.0
    assert sorted(profile_files()) == ["a", "b"]


def test_a_name_that_is_not_there_says_which_are() -> None:
    save_profile(make_profile("desk"))
    with pytest.raises(UsageError, match=r"profile lap \(stored: desk\)"):
        load_profile("lap")
    with pytest.raises(UsageError, match=r"nowhere/x\.toml"):
        load_profile("nowhere/x.toml")


def changed(pattern: str, by: str) -> str:
    """Return a profile's TOML with its first match of a pattern replaced."""
    text, n = re.subn(pattern, by, to_toml(make_profile()), count=1)
    assert n == 1
    return text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("this is [ no toml", "is not TOML"),
        ("schema_version = 7\n", "newer edgetune"),
        ("schema_version = 1\n", "is not a device profile: name: field required"),
        (
            changed(r"(?m)^s = .*$", "s = -1.0"),
            r"points\.0\.s: input should be greater than 0 \(given: -1\.0\)",
        ),
        (changed(r"(?m)^s = .*$", "s = nan"), r"points\.0\.s"),
        (changed(r"(?m)^s = .*$", "s = 5000.0"), "outside its own interval"),
        (changed(r"(?m)^report_s = .*$", "report_s = inf"), "report_s: input should be a finite number"),
        (changed(r"(?m)^depth = 3$", "depth = 9"), "depth that a model of 6 layers"),
        (changed(r"(?m)^batch = 8$", "batch = 32"), "appears twice"),
        (changed(r"(?m)^cores = .*$", 'cores = "many"'), r"machine\.cores"),
        (changed(r"(?m)^name = \"some\"$", 'name = "some"\nwarp = 9'), "warp"),
    ],
)
def test_a_broken_profile_says_what_is_wrong_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError, match=says) as caught:
        read_profile(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("place", "factor", "says"),
    [
        (("train", 32, 64, 0), 0.01, "score alone"),
        (("score", 32, 64, 0), 0.02, "takes"),
        (("score", 8, 16, 0), 1000.0, "takes"),
        (("train",), 0.0, "no `train` measurement at depth 0"),  # none at all
    ],
)
def test_costs_that_cannot_be_are_refused(
    tmp_path: Path, place: tuple[object, ...], factor: float, says: str
) -> None:
    backend, points = make_backend(), []
    for p in backend.points:
        here = (p.op, p.batch, p.length, p.depth)[: len(place)] == place
        times = factor if here else 1.0
        if times:
            seconds = {name: times * getattr(p, name) for name in ("s", "low_s", "high_s")}
            points.append(p.model_copy(update=seconds))
    profile = make_profile(backends=[backend.model_copy(update={"points": points})])
    path = save_profile(profile, tmp_path / "odd.toml")
    with pytest.raises(ProfileError, match=f"is implausible.*{says}"):
        read_profile(path)


def test_nowhere_to_write_is_said(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ProfileError, match="--out"):
        save_profile(make_profile(), blocked / "x.toml")


@pytest.mark.parametrize(
    ("changes", "versions", "fit", "reasons"),
    [
        ({}, VERSIONS, "same", 0),
        ({"system": "Linux 7", "memory_mb": 1.0}, VERSIONS, "same", 0),
        ({}, {"edgetune": "9"}, "same", 0),  # what is not installed is not used
        ({"cores": 8}, VERSIONS, "alike", 1),
        ({"features": ["AVX2", "AVX512"]}, VERSIONS, "alike", 1),
        ({}, VERSIONS | {"torch": "2.14.0"}, "alike", 1),
        ({"cpu_model": "Vendor 1 3"}, VERSIONS, "other", 1),
        ({"architecture": "aarch64", "cores": 8}, VERSIONS, "other", 2),
    ],
)
def test_fit_is_same_alike_or_other(
    changes: dict[str, object], versions: dict[str, str], fit: str, reasons: int
) -> None:
    match = match_profile(make_profile(), MACHINE.model_copy(update=changes), versions)
    assert (match.fit, len(match.reasons), match.widen > 0) == (fit, reasons, fit != "same")


def test_the_best_fit_is_found(home: Path) -> None:
    assert find_for_this_machine(SHAPE, MACHINE, VERSIONS) is None
    other = MACHINE.model_copy(update={"cpu_model": "Vendor 9 9", "features": ["NEON"]})
    near = MACHINE.model_copy(update={"cpu_model": "Vendor 1 3"})
    save_profile(make_profile("far", machine=other))
    save_profile(make_profile("near", machine=near))
    found = find_for_this_machine(SHAPE, MACHINE, VERSIONS)
    assert found is not None
    assert (found.profile.name, found.fit) == ("near", "other")
    assert found.widen > 0.5
    bigger = SHAPE.model_copy(update={"hidden_size": 768, "intermediate_size": 3072, "n_layers": 12})
    save_profile(make_profile("big", model=bigger))
    save_profile(make_profile("quick", quick=True))
    save_profile(make_profile("older", date="2025-01-01T00:00:00+00:00"))
    save_profile(make_profile("mine"))
    names = [find_for_this_machine(s, MACHINE, VERSIONS).profile.name for s in (SHAPE, bigger)]
    assert names == ["mine", "big"]


def test_a_broken_file_does_not_hide_a_good_one(home: Path) -> None:
    home.mkdir()
    (home / "bad.toml").write_text("nonsense [")
    with pytest.raises(ProfileError, match="not TOML"):
        find_for_this_machine(SHAPE, MACHINE, VERSIONS)
    save_profile(make_profile("good"))
    found = find_for_this_machine(SHAPE, MACHINE, VERSIONS)
    assert found is not None
    assert found.profile.name == "good"


def test_a_gpu_is_named_by_its_driver(tmp_path: Path) -> None:
    assert this_machine(tmp_path).gpu is None
    folder = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Model: \t\t NVIDIA Thing 9\nIRQ: 5\n")
    assert this_machine(tmp_path).gpu == "NVIDIA Thing 9"


def test_this_machine_can_be_described() -> None:
    here = this_machine()
    assert here.cores >= 1
    assert match_profile(make_profile(machine=here, versions={}), here, {}).fit == "same"
    name = profile_name(
        here.model_copy(update={"cpu": "Intel(R) Core(TM) i7-8565U CPU @ 1.80GHz", "cores": 1})
    )
    assert name == "intel-core-i7-8565u-1-core"
    make_profile(profile_name(here))


def test_a_profile_that_was_changed_since_is_refused(tmp_path: Path) -> None:
    path = save_profile(make_profile(), tmp_path / "some.toml")
    whole = path.read_text(encoding="utf-8")
    for old, new in (
        ("start_s = ", "start_s = 1"),
        ("noisy = false", "noisy = true"),
        ("\n[machine]", "\n\n[machine]"),
    ):
        assert old in whole
        path.write_text(whole.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(ProfileError, match=r"some\.toml"):
            read_profile(path)


def test_line_ends_of_another_system_and_profiles_without_a_checksum(tmp_path: Path) -> None:
    path = save_profile(make_profile(), tmp_path / "some.toml")
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole, encoding="utf-8", newline="\r\n")
    assert b"\r\n" in path.read_bytes()
    assert read_profile(path) == make_profile()
    older = tmp_path / "older.toml"
    older.write_text(re.sub(r"(?m)^# SHA-256.*\n", "", whole).replace("noisy = false", "noisy = true"))
    assert read_profile(older).noisy
