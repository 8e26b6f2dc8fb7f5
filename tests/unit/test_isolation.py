"""No telemetry, no code of strangers, no pickles: read off the source, and off what children do."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, RunCli, child_environment
from strangers import write_bomb, write_module

from edgetune.backends.ort import ort_runtime
from edgetune.compare.baselines.task import safe_copy_of
from edgetune.utils.errors import ModelError
from edgetune.utils.isolation import NO_TELEMETRY, OFFLINE, module_command, no_network, no_telemetry

SOURCES = sorted((ROOT / "edgetune").rglob("*.py"))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call with the last part of its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield name, node


def says(call: ast.Call, name: str, value: object) -> bool:
    """Return whether a call has this keyword with this value, or all of `SAFE`."""
    for one in call.keywords:
        if one.arg == name and isinstance(one.value, ast.Constant) and one.value.value is value:
            return True
        if one.arg is None and getattr(one.value, "id", "") == "SAFE":
            return True
    return False


def test_remote_code_is_off_in_every_call() -> None:
    from edgetune.compare.baselines.task import SAFE

    assert SAFE == {"local_files_only": True, "trust_remote_code": False}
    n_found = 0
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert "trust_remote_code=True" not in text.replace(" ", ""), path
        for name, call in calls(ast.parse(text)):
            if name == "from_pretrained":
                n_found += 1
                where = f"{path}:{call.lineno}"
                assert says(call, "trust_remote_code", False), where
                assert says(call, "local_files_only", True), where
                if "Tokenizer" not in ast.unparse(call.func) and "Config" not in ast.unparse(call.func):
                    assert says(call, "use_safetensors", True) or "SetFit" in ast.unparse(call.func), where
    assert n_found >= 8


def test_nothing_is_unpickled() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            unpicklers = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
            assert not unpicklers & {name.split(".")[0] for name in names}, path
        for name, call in calls(tree):
            owner = ast.unparse(call.func)
            if owner.endswith(("torch.load", "_torch.load")):
                assert says(call, "weights_only", True), f"{path}:{call.lineno}"
            if owner in ("np.load", "numpy.load"):
                assert says(call, "allow_pickle", False), f"{path}:{call.lineno}"
            assert owner not in ("eval", "exec", "joblib.load"), f"{path}:{call.lineno}"
            assert name != "read_pickle", f"{path}:{call.lineno}"


def test_what_libraries_are_told() -> None:
    """As the libraries themselves understand it."""
    program = (
        "from edgetune.utils.isolation import no_telemetry, no_network; no_telemetry();"
        "from huggingface_hub import constants as c; print(c.HF_HUB_DISABLE_TELEMETRY, c.HF_HUB_OFFLINE)"
    )
    environment = {k: v for k, v in child_environment().items() if k not in NO_TELEMETRY | OFFLINE}
    for text, expected in (
        (program, "True False"),
        (program.replace("y();", "y(); no_network();"), "True True"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, env=environment, check=True
        )
        assert done.stdout.strip() == expected


def test_the_command_line_switches_telemetry_off(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NO_TELEMETRY:
        monkeypatch.delenv(name, raising=False)
    run_cli("--version")
    assert {name: os.environ[name] for name in NO_TELEMETRY} == NO_TELEMETRY


@pytest.mark.parametrize(
    "module",
    [
        "edgetune/backends/ort/export_process.py",
        "edgetune/profiling/worker.py",
        "edgetune/compare/baselines/__main__.py",
    ],
)
def test_children_are_offline_before_they_import_anything(module: str) -> None:
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    assert "no_network" in {name for name, _ in calls(tree)}
    at_once = {
        (node.module or "").split(".")[0]
        if isinstance(node, ast.ImportFrom)
        else node.names[0].name.split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert not at_once & {"torch", "transformers", "huggingface_hub", "datasets", "optimum", "setfit"}


def test_the_runtimes_own_telemetry_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fake = SimpleNamespace(
        set_default_logger_severity=lambda level: done.append("quiet"),
        disable_telemetry_events=lambda: done.append("silent"),
    )
    assert ort_runtime._quiet(fake) is fake
    assert done == ["quiet", "silent"]
    assert callable(ort_runtime.import_ort().disable_telemetry_events)


@pytest.mark.parametrize("switch_off", [no_telemetry, no_network])
def test_the_user_s_own_consent_to_unpickling_is_withdrawn(
    switch_off: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers reads an old vocabulary (Transformer-XL's) as a pickle where this says that it may."""
    for name in NO_TELEMETRY | OFFLINE:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("TRUST_REMOTE_CODE", "True")
    switch_off()
    assert os.environ["TRUST_REMOTE_CODE"] == "False"


def test_telemetry_is_named_in_one_place() -> None:
    for path in [*SOURCES, *(ROOT / "tools").rglob("*.py")]:
        if path.name != "isolation.py":
            text = path.read_text(encoding="utf-8")
            assert not [name for name in NO_TELEMETRY if f'"{name}"' in text], path


# Children and the folder that they are started in


def test_a_child_imports_nothing_from_the_current_folder(tmp_path: Path) -> None:
    """A folder of data may come with a `numpy.py`."""
    mark = tmp_path / "code-was-run"
    for name in ("json", "numpy", "pydantic", "edgetune", "runpy"):
        write_module(tmp_path / f"{name}.py", mark)
    environment = {name: value for name, value in child_environment().items() if name != "PYTHONPATH"}
    done = subprocess.run(
        module_command("edgetune", "methods"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not mark.exists()


def test_a_child_gets_its_arguments_and_name(tmp_path: Path) -> None:
    done = subprocess.run(
        module_command("edgetune", "--version"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("edgetune ")


# What SetFit and sentence-transformers are shown


def test_baselines_see_neither_pickles_nor_code(model_copy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "code-was-run"
    write_bomb(model_copy / "model_head.pkl", mark)
    write_bomb(model_copy / "pytorch_model.bin", mark)
    write_module(model_copy / "evil.py", mark)
    (model_copy / "1_Pooling").mkdir()
    (model_copy / "1_Pooling" / "config.json").write_text("{}")
    write_bomb(model_copy / "1_Pooling" / "pytorch_model.bin", mark)
    with safe_copy_of(model_copy) as folder:
        shown = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert (folder / "model.safetensors").read_bytes() == (model_copy / "model.safetensors").read_bytes()
    assert {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"} <= shown
    assert not [name for name in shown if name.endswith((".py", ".bin", ".pkl"))]
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["evil.Evil", "os.system", None, 3, ["sentence_transformers.x"]])
def test_modules_of_their_own_are_refused(model_copy: Path, kind: object) -> None:
    import json

    good = {"idx": 0, "type": "sentence_transformers.models.Transformer", "path": ""}
    (model_copy / "modules.json").write_text(json.dumps([good]))
    with safe_copy_of(model_copy):
        pass
    (model_copy / "modules.json").write_text(json.dumps([good, {"idx": 1, "type": kind, "path": "x"}]))
    with pytest.raises(ModelError, match=r"modules\.json"), safe_copy_of(model_copy):
        pass
