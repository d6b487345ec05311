"""What `fokker check` prints, read back."""

import re
from collections import defaultdict


def said_of_each(out):
    """The lines about each measurement by its number; lines that are the same for several are printed once."""
    told, which = defaultdict(list), []
    for line in out.splitlines():
        if title := re.fullmatch(r"measurements? ([\d, to]+):", line):
            which = [k for run in title[1].split(", ") for k in _run(*map(int, run.split(" to ")))]
        elif line.startswith("  - "):
            for k in which:
                told[k].append(line)
    return told


def _run(first, last=None):
    return range(first, (first if last is None else last) + 1)
