"""`evaluate.load("ladm")` after `pip install` of the built wheel: fresh environments, fresh processes, no network."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import _ladm_hf_autoload

ROOT = Path(__file__).parents[2]
MODULE = "ladm_hf.integrations.evaluate"

# Where the metric came from, and that nothing but the hook brought it.
LOAD = """
import sys
assert "ladm_hf" not in sys.modules
import evaluate
assert "ladm_hf" not in sys.modules
metric = evaluate.load("ladm")
print(type(metric).__module__, metric.name, sys.modules["ladm_hf"].__file__)
"""

BLOCK_NETWORK = """
import socket
def connect(self, address, connect=socket.socket.connect):
    if self.family != socket.AF_UNIX:
        raise OSError(f"the network is blocked: {address}")
    return connect(self, address)
socket.socket.connect = connect
socket.getaddrinfo = lambda *args, **kwargs: connect(socket.socket(), args[0])
"""


@dataclass
class Environment:
    """A virtual environment without network that sees the packages of this one, but not its own `ladm_hf`."""

    path: Path
    home: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.path)}))

    def pip(self, *arguments: str) -> None:
        # outside the environment's own folder, so that pip finds nothing but what it manages
        self._command(sys.executable, "-m", "pip", "--python", str(self.python), "--isolated", *arguments)

    def see_packages(self, visible: bool) -> None:
        """Puts this interpreter's packages on the path, after the environment's own. A plain path in a `.pth` runs none
        of the `.pth` files that lie there, so an editable `ladm_hf` and its hook stay out."""
        link = self.site_packages / "zz_packages.pth"
        block = self.site_packages / "block_network.py"
        if visible:
            # pip removes the folder of the last package that it uninstalls
            self.site_packages.mkdir(parents=True, exist_ok=True)
            link.write_text(f"import block_network\n{sysconfig.get_path('purelib')}\n")
            block.write_text(BLOCK_NETWORK)
        else:
            link.unlink()
            block.unlink()

    def files(self) -> set[str]:
        paths = (path for path in self.path.rglob("*") if not path.is_dir() and "block_network" not in path.name)
        return {str(path.relative_to(self.path)) for path in paths if path.name != "zz_packages.pth"}

    def run(
        self, code: str, *options: str, cwd: Path | None = None, check: bool = True, **environment: str
    ) -> SimpleNamespace:
        """Runs code in a fresh process, in a folder that holds nothing of ours unless `cwd` is given."""
        return self._command(str(self.python), *options, "-c", code, cwd=cwd, check=check, **environment)

    def _command(
        self, *command: str, cwd: Path | None = None, check: bool = True, **environment: str
    ) -> SimpleNamespace:
        keep = ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
        variables = {name: os.environ[name] for name in keep if name in os.environ}
        variables |= {"HOME": str(self.home), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment}
        run = subprocess.run(command, cwd=cwd or self.home, env=variables, capture_output=True, text=True)
        assert run.returncode == 0 or not check, f"{command} failed:\n{run.stdout}{run.stderr}"
        return SimpleNamespace(code=run.returncode, out=run.stdout.strip(), err=run.stderr)


def new_environment(folder: Path) -> Environment:
    home = folder / "home"
    home.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    return Environment(folder / "venv", home)


def build(kind: str, source: Path, folder: Path) -> Path:
    """What a build front end makes of the source: `sdist`, `wheel` or `editable`."""
    folder.mkdir(parents=True, exist_ok=True)
    code = f"import hatchling.build; print(hatchling.build.build_{kind}({str(folder)!r}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    return folder / run.stdout.split()[-1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that a user gets: built from the source distribution."""
    pytest.importorskip("hatchling", reason="building the wheel needs hatchling, of ladm-hf[test]")
    folder = tmp_path_factory.mktemp("build")
    with tarfile.open(build("sdist", ROOT, folder)) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    return build("wheel", source, folder)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """An environment with the wheel in it. Afterwards the wheel is uninstalled, and nothing may be left."""
    environment = new_environment(tmp_path_factory.mktemp("installed"))
    before = environment.files()
    environment.pip("install", "--no-deps", "--no-index", str(wheel))
    assert {"ladm_hf.pth", "ladm_hf.start", "_ladm_hf_autoload.py"} < set(os.listdir(environment.site_packages))
    environment.see_packages(True)
    yield environment
    environment.see_packages(False)
    environment.pip("uninstall", "--yes", "ladm-hf")
    assert environment.files() == before
    assert not list(environment.path.rglob("*ladm*"))
    environment.see_packages(True)
    assert "Couldn't find a module script" in environment.run(LOAD, check=False, HF_EVALUATE_OFFLINE="1").err


@pytest.mark.parametrize("options", [(), ("-I",)])
def test_a_fresh_process_finds_it_by_name(installed: Environment, options: tuple[str, ...]) -> None:
    module, name, file = installed.run(LOAD, *options).out.split()
    assert (module, name) == (MODULE, "ladm")
    assert Path(file).is_relative_to(installed.site_packages)


def test_it_scores(installed: Environment) -> None:
    code = """
import evaluate, heapq, inspect
result = evaluate.load("ladm").compute(predictions=[inspect.getsource(heapq), ""], config={"span_length": 16})
print(result["statuses"], result["mean_ladm_score"] > 0)
"""
    assert installed.run(code).out == "['ok', 'empty'] True"


def test_nothing_is_written_to_the_module_cache(installed: Environment, tmp_path: Path) -> None:
    installed.run(LOAD, HF_HOME=str(tmp_path))
    assert not list(tmp_path.rglob("*.py"))


@pytest.mark.parametrize("parent", ["", "import evaluate; evaluate.load('ladm')"])
def test_forked_and_spawned_workers_find_it(installed: Environment, tmp_path: Path, parent: str) -> None:
    script = tmp_path / "workers.py"
    script.write_text(f"""
import multiprocessing

def load(_):
    import evaluate
    return type(evaluate.load("ladm")).__module__

if __name__ == "__main__":
    {parent}
    for method in ("fork", "forkserver", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(method, *pool.map(load, range(1)))
""")
    run = installed._command(str(installed.python), str(script))
    assert run.out.split("\n") == [f"{method} {MODULE}" for method in ("fork", "forkserver", "spawn")]


def test_names_bound_before_and_combine_find_it(installed: Environment) -> None:
    code = """
from evaluate import combine, load
print(type(load("ladm")).__module__, type(load("ladm", module_type="metric")).__module__)
print([type(module).__module__ for module in combine(["ladm"]).evaluation_modules])
"""
    assert installed.run(code).out == f"{MODULE} {MODULE}\n['{MODULE}']"


def test_a_reloaded_module_is_patched_again(installed: Environment) -> None:
    code = """
import importlib, importlib.util, sys
importlib.util.find_spec("evaluate")
import evaluate.loading
importlib.reload(evaluate.loading)
print(evaluate.loading.evaluation_module_factory.answers_ladm)
"""
    assert installed.run(code).out == "True"


def test_the_switch_turns_it_off(installed: Environment) -> None:
    code = """
import evaluate
for _ in range(2):
    try:
        evaluate.load("ladm")
    except FileNotFoundError:
        print("not found")
    import ladm_hf
"""
    run = installed.run(code, LADM_HF_NO_AUTOLOAD="1", HF_EVALUATE_OFFLINE="1")
    assert run.out == "not found\nnot found"
    code = "import sys; print([type(f).__name__ for f in sys.meta_path if 'Ladm' in type(f).__name__])"
    assert installed.run(code, LADM_HF_NO_AUTOLOAD="1").out == "[]"
    assert installed.run(code, LADM_HF_NO_AUTOLOAD="0").out == "['LadmLoadHook']"


METRIC = """
import datasets
import evaluate
class {name}(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="", citation="", features=datasets.Features({{"predictions": datasets.Value("string")}})
        )
"""


def test_a_users_own_folder_wins(installed: Environment, tmp_path: Path) -> None:
    (tmp_path / "ladm").mkdir()
    (tmp_path / "ladm" / "ladm.py").write_text(METRIC.format(name="Mine"))
    code = """
import os, sys
import evaluate
for path in ("ladm", "./ladm", "ladm/ladm.py", os.path.abspath("ladm")):
    print(type(evaluate.load(path)).__name__)
os.chdir("/")
print(type(evaluate.load("ladm")).__name__)
"""
    assert installed.run(code, cwd=tmp_path).out.split() == ["Mine"] * 4 + ["Ladm"]


def test_other_names_keep_their_meaning(installed: Environment, tmp_path: Path) -> None:
    # what a download of a metric of evaluate, of a Space and of another kind of module would have left
    for folder, name in (
        ("evaluate-metric--accuracy", "accuracy"),
        ("someone--ladm", "ladm"),
        ("evaluate-measurement--perplexity", "perplexity"),
    ):
        path = tmp_path / "modules" / "evaluate_modules" / "metrics" / folder / ("0" * 64)
        path.mkdir(parents=True)
        (path / f"{name}.py").write_text(METRIC.format(name=f"Cached{name.title()}"))
    code = """
import evaluate
for name in ("accuracy", "someone/ladm", "perplexity", "ladm"):
    print(type(evaluate.load(name)).__name__)
for options in ({"path": "nothing"}, {"path": "ladm", "module_type": "measurement"}, {"path": "ladm", "revision": "x"}):
    try:
        print(evaluate.load(**options))
    except FileNotFoundError as error:
        print("not found")
"""
    run = installed.run(code, HF_HOME=str(tmp_path), HF_EVALUATE_OFFLINE="1")
    found = ["CachedAccuracy", "CachedLadm", "CachedPerplexity", "Ladm"]
    assert run.out.split("\n") == found + ["not found"] * 3


def test_the_repository_folder_loads_by_path(installed: Environment, tmp_path: Path) -> None:
    # as a clone of the Space, somewhere else
    shutil.copytree(ROOT / "metrics" / "ladm", tmp_path / "clone" / "ladm")
    code = """
import evaluate, sys
for path in sys.argv[1:]:
    print(type(evaluate.load(path)).__module__)
"""
    environment = {"HF_HOME": str(tmp_path / "home"), "LADM_HF_NO_AUTOLOAD": "1"}
    command = [str(installed.python), "-c", code, "metrics/ladm", str(tmp_path / "clone" / "ladm")]
    assert installed._command(*command, cwd=ROOT, **environment).out.split() == [MODULE] * 2


def test_importing_the_package_registers_where_start_up_lines_do_not_run(
    wheel: Path, installed: Environment, tmp_path: Path
) -> None:
    installed.pip("install", "--no-deps", "--no-index", "--target", str(tmp_path), str(wheel))
    code = f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n"
    environment = {"PYTHONPATH": str(tmp_path), "HF_EVALUATE_OFFLINE": "1"}
    load = "print(type(evaluate.load('ladm')).__module__)\n"
    assert installed.run(f"{code}import ladm_hf, evaluate\n{load}", "-S", **environment).out == MODULE
    code += f"""
import evaluate
try:
    evaluate.load("ladm")
except FileNotFoundError:
    print("not found")
import ladm_hf
{load}"""
    assert installed.run(code, "-S", **environment).out == f"not found\n{MODULE}"


def test_start_up_costs_two_milliseconds_at_most_and_imports_nothing_else(installed: Environment) -> None:
    code = "import sys; print(*sorted(sys.modules))"
    line = installed.site_packages / "ladm_hf.pth"
    installed.see_packages(False)
    try:
        with_hook = installed.run(code).out.split()
        costs = []
        for _ in range(5):
            report = installed.run("pass", "-X", "importtime").err
            (cost,) = re.findall(r"\|\s*(\d+) \|\s+_ladm_hf_autoload$", report, flags=re.MULTILINE)
            costs.append(int(cost))
        text = line.read_text()
        # from Python 3.13 on, any line to read imports a codec
        line.write_text("# nothing\n")
        without = installed.run(code).out.split()
        line.write_text(text)
    finally:
        installed.see_packages(True)
    assert set(with_hook) - set(without) == {"_ladm_hf_autoload"}
    assert min(costs) <= 2000


def test_an_editable_install_finds_it(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="building needs hatchling, of ladm-hf[test]")
    environment = new_environment(tmp_path / "environment")
    before = environment.files()
    environment.pip("install", "--no-deps", "--no-index", str(build("editable", ROOT, tmp_path)))
    environment.see_packages(True)
    for options in ((), ("-I",)):
        assert environment.run(LOAD, *options).out.split()[-1] == str(ROOT / "ladm_hf" / "__init__.py")
    environment.see_packages(False)
    environment.pip("uninstall", "--yes", "ladm-hf")
    assert environment.files() == before


def test_the_start_file_names_what_the_start_up_line_calls() -> None:
    module, function = (ROOT / "ladm_hf.start").read_text().strip().split(":")
    assert (ROOT / "ladm_hf.pth").read_text() == f"import {module}; {module}.{function}()\n"
    assert module == _ladm_hf_autoload.__name__
    assert callable(getattr(_ladm_hf_autoload, function))


def test_installing_twice_changes_nothing() -> None:
    import evaluate

    def state() -> tuple[list[Any], Any]:
        return list(sys.meta_path), evaluate.loading.evaluation_module_factory

    _ladm_hf_autoload.install()
    before = state()
    _ladm_hf_autoload.install()
    assert state() == before


def test_a_module_that_looks_different_is_left_alone() -> None:
    module = SimpleNamespace()
    _ladm_hf_autoload.answer_name(module)
    assert vars(module) == {}


def test_looking_for_the_module_without_importing_it_keeps_the_hook() -> None:
    spec = importlib.util.find_spec("evaluate.loading")
    assert spec is not None
    assert sum(isinstance(finder, _ladm_hf_autoload.LadmLoadHook) for finder in sys.meta_path) == 1
    stray = _ladm_hf_autoload.LadmLoadHook()
    assert stray.find_spec("evaluate.loading") is None
