"""The command line: one typed dataclass per command.

    fokker run PROBLEM [--preset NAME] [--out DIR] [options]     simulate, fit, sample, check, report
    fokker report DIR                                            the figures and the page of a run again
    fokker problems                                              what there is, one line each
    fokker simulate MODEL.py [-n N] [--out STORE]                pairs from the user's simulator
    fokker fit DATA --x NAME --y NAME [--out MODEL]              learn a posterior from pairs in files
    fokker sample MODEL Y [-n N] [--out posterior.zarr]          draw from it
    fokker check MODEL [--y FILE] [--simulator MODEL.py]         may it be believed

Exit status: 0 done, 2 wrong input, 1 the environment failed, 130 interrupted, 143 ended by SIGTERM. Errors are one
line.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from fokker.cli.problems import PROBLEMS, report, run
from fokker.errors import InputError

COMMANDS = "run, report, problems, simulate, fit, sample, check"
HELP = """\
usage: fokker COMMAND ...

  fokker run PROBLEM [--preset NAME] [--out DIR] [options]   simulate, fit, sample, check, report
  fokker report DIR                                          the figures and the page of a run again
  fokker problems                                            what there is, one line each
  fokker simulate MODEL.py [-n N] [--out STORE]              pairs from a simulator of your own
  fokker fit DATA --x NAME --y NAME [--out MODEL]            learn a posterior from pairs in your own files
  fokker sample MODEL Y [-n N] [--out posterior.zarr]        draw from it for your own measurements
  fokker check MODEL [--y FILE] [--simulator MODEL.py]       may it be believed, in general and for a measurement

fokker COMMAND --help shows the options of the last four. fokker run PROBLEM --help shows a problem's options.
"""


def main() -> None:
    """Entry point of the `fokker` program."""
    signal.signal(signal.SIGTERM, _end)
    sys.exit(command(sys.argv[1:]))


def _end(number: int, frame: Any) -> None:
    """Leave by way of everything that has to be closed: processes, their queues, files."""
    raise SystemExit(128 + number)


def command(words: list[str]) -> int:
    """Run one command line and return its exit status; the only place where errors become lines."""
    try:
        return _dispatch(words)
    except InputError as error:
        return _say(error, 2)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # after the terminal's ^C
        kept = words[:1] in (["run"], ["fit"], ["simulate"])
        return _say(f"interrupted; the same command {'continues where it stopped' if kept else 'starts anew'}", 130)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
        return _say(what, 1)
    except RuntimeError as error:
        if "memory" not in str(error):  # torch's word for it
            raise
        return _say(error, 1)
    except (ImportError, FloatingPointError, MemoryError) as error:
        return _say(error if str(error) else type(error).__name__, 1)


def _say(what: object, status: int) -> int:
    print("fokker: " + " ".join(str(what).split()), file=sys.stderr)
    return status


def _dispatch(words: list[str]) -> int:
    match words:
        case [] | ["-h" | "--help", *_] | ["run" | "problems", "-h" | "--help"]:
            print(HELP, end="")
        case ["--version"]:
            import fokker

            print(fokker.__version__)
        case ["problems"]:
            width = max(map(len, PROBLEMS))
            for name, problem in PROBLEMS.items():
                print(f"{name:{width}s}  {problem.line}")
        case ["problems" | "--version" as name, other, *_]:
            raise InputError(f"{name}: got {other!r}, nothing more is accepted")
        case ["run", name, *options] if name in PROBLEMS:
            run(name, options)
        case ["run", *rest]:
            got = repr(rest[0]) if rest else "nothing"
            raise InputError(f"problem: got {got}, one of {', '.join(PROBLEMS)} is accepted")
        case ["report", *options]:
            report(options)
        case ["fit" | "sample" as name, *options]:
            from fokker.cli import fit  # here, so that `fokker problems` does not need the parser

            getattr(fit, name)(options)
        case ["simulate", *options]:
            from fokker.cli import simulate

            simulate.simulate(options)
        case ["check", *options]:
            from fokker.cli import check

            check.check(options)
        case [other, *_]:
            raise InputError(
                f"command: got {other!r}, one of run, report, problems, simulate, fit, sample, check is accepted"
            )
    return 0
