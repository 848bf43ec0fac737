"""How long archcalc takes to start and how much memory it peaks at: `make bench`.

Each command is run as a whole process, in turn with a process that only imports the three libraries it
stands on in a pipe and defines one model: the import floor. Both runs of a pair see the same load of the machine, so
their ratio is steadier than either time. Only the standard library is used here: this process stays small.
"""

import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAIRS = 15
MAX_RATIO = 1.2  # of the import floor; 1.0 is what we aim for
MAX_PEAK_MB = 60.0  # megabytes of 10^6 bytes

FLOOR = """\
import yaml, typer
from pydantic import BaseModel
class Model(BaseModel):
    size: int
"""

COMMANDS: dict[str, tuple[str, ...]] = {
    "params specs/k25.yaml": ("params", "specs/k25.yaml"),
    "--help": ("--help",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished process: its wall time [s] and its peak resident memory [bytes]."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the pairs of one command come to."""

    ours_seconds: float
    floor_seconds: float
    ratio: float
    peak_bytes: int

    @property
    def within_limits(self) -> bool:
        """Whether both the ratio and the peak are allowed."""
        return self.ratio <= MAX_RATIO and self.peak_bytes <= MAX_PEAK_MB * 1e6


def run(command: Sequence[str]) -> Run:
    """Run one command to its end with its output thrown away; a failure ends the benchmark."""
    # wait4 gives the peak of this one child; getrusage(RUSAGE_CHILDREN) would keep the largest of all so far.
    silence = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    start = time.perf_counter()
    pid = os.posix_spawn(command[0], list(command), os.environ, file_actions=silence)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        sys.exit(f"bench: exit {code} from: {' '.join(command)}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return Run(seconds=seconds, peak_bytes=usage.ru_maxrss * unit)


def measure(ours: Sequence[str], floor: Sequence[str], pairs: int = PAIRS) -> Result:
    """Median times and median ratio of `pairs` runs in turn, after one warm-up each."""
    run(ours)
    run(floor)
    runs = [(run(ours), run(floor)) for _ in range(pairs)]
    return Result(
        ours_seconds=statistics.median(a.seconds for a, _ in runs),
        floor_seconds=statistics.median(b.seconds for _, b in runs),
        ratio=statistics.median(a.seconds / b.seconds for a, b in runs),
        peak_bytes=max(a.peak_bytes for a, _ in runs),
    )


def main() -> int:
    """Print a line a command; 1 if one is over its limit."""
    os.chdir(ROOT)
    archcalc = str(Path(sys.executable).with_name("archcalc"))
    floor = (sys.executable, "-c", FLOOR)
    ok = True
    print(f"{'command':<24}{'ours':>10}{'floor':>10}{'ratio':>8}{'peak':>10}")
    for name, arguments in COMMANDS.items():
        result = measure((archcalc, *arguments), floor)
        ok = ok and result.within_limits
        print(
            f"{name:<24}{result.ours_seconds * 1e3:>7.0f} ms{result.floor_seconds * 1e3:>7.0f} ms"
            f"{result.ratio:>8.2f}{result.peak_bytes / 1e6:>7.1f} MB"
        )
    verdict = "ok" if ok else "OVER"
    print(f"{PAIRS} pairs each; limits: ratio {MAX_RATIO}, peak {MAX_PEAK_MB:.0f} MB: {verdict}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
