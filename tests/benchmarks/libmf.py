"""LIBMF as its authors build it, with AVX: fetched from the Python index as source and compiled here, once.

Its wheel is compiled without, and is five to ten times slower: nothing to compare with.
"""

import ctypes
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.benchmarks.streams import ROOT

PACKAGE = "libmf==0.9.2"
FOLDER = ROOT / ".data/libmf"
DRIVER = Path(__file__).with_suffix(".cpp")
FLAGS = ["-O3", "-std=c++11", "-march=native", "-mavx", "-DUSEAVX", "-fopenmp", "-DUSEOMP"]
"""As in LIBMF's own Makefile, with its DFLAG and its OMPFLAG."""

N_BINS = 20
"""Blocks a side that ``mf-train`` cuts the matrix into where it is not told."""
NODE = np.dtype([("user", np.int32), ("item", np.int32), ("rating", np.float32)])


class Iteration(NamedTuple):
    """What one pass over the ratings did."""

    seconds: float
    """Of learning alone; the first pass includes what comes before it: shuffling, and sorting into blocks."""
    cpu_s: float
    """Processor time of the threads that learn."""
    holdout_rmse: float


class Line(ctypes.Structure):
    """A line of the report (``libmf.cpp``)."""

    _fields_ = [
        ("began", ctypes.c_double),
        ("ended", ctypes.c_double),
        ("others_cpu", ctypes.c_double),
        ("text", ctypes.c_char * 128),
    ]


class Problem(ctypes.Structure):
    """``mf_problem``."""

    _fields_ = [
        ("n_users", ctypes.c_int),
        ("n_items", ctypes.c_int),
        ("n", ctypes.c_longlong),
        ("nodes", ctypes.c_void_p),
    ]


class LibMF:
    """LIBMF's learner of squared loss: no biases, Adagrad with one step size a row, ratings divided by their spread."""

    def __init__(self):
        """Load it, fetched and compiled the first time."""
        path = FOLDER / "libmf.so"
        if not path.exists() or path.stat().st_mtime < DRIVER.stat().st_mtime:
            build(path)
        self.n_wide = wide_instructions(path)
        self._learn = ctypes.CDLL(str(path)).learn
        self._learn.restype = ctypes.c_double
        self._learn.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int] * 4 + [ctypes.c_float] * 2 + [ctypes.c_void_p]

    def learn(self, shape, training, holdout, *, rank, n_threads, n_iterations, penalty=0.1, rate=0.1):
        """Return an `Iteration` for each pass over *training*; entries are (users, items, ratings)."""
        held = [nodes_of(*entries) for entries in (training, holdout)]
        problems = [Problem(*shape, len(nodes), nodes.ctypes.data) for nodes in held]
        lines = (Line * (n_iterations + 1))()
        began = self._learn(
            *map(ctypes.byref, problems), rank, n_threads, N_BINS, n_iterations, penalty, rate, ctypes.byref(lines)
        )
        ended = [began + lines[0].ended - lines[0].began] + [line.ended for line in lines[1:]]
        return [
            Iteration(
                seconds=line.began - ended[n],
                cpu_s=line.others_cpu - lines[n].others_cpu,
                holdout_rmse=float(line.text.split()[2]),
            )
            for n, line in enumerate(lines[1:])
        ]


def nodes_of(users, items, ratings):
    """Return entries as an array of ``mf_node``."""
    nodes = np.empty(len(users), NODE)
    nodes["user"], nodes["item"], nodes["rating"] = users, items, ratings
    return nodes


def build(path):
    """Fetch the source distribution and compile it to *path*."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
        subprocess.run([*pip, "download", "--no-deps", "--no-binary", ":all:", "--dest", scratch, PACKAGE], check=True)
        (archive,) = Path(scratch).glob("libmf-*.tar.gz")
        with tarfile.open(archive) as held:
            held.extractall(scratch, filter="data")
        (source,) = Path(scratch).glob("libmf-*/src_cpp")
        built = Path(scratch) / path.name
        subprocess.run(
            ["g++", *FLAGS, "-pthread", "-w", "-shared", "-fPIC", f"-I{source}", str(DRIVER), "-o", str(built)], check=True
        )
        built.replace(path)


def wide_instructions(path):
    """Return how many instructions of *path* multiply eight numbers at once: with none, AVX was not compiled in."""
    listed = subprocess.run(["objdump", "--disassemble", str(path)], capture_output=True, text=True, check=True).stdout
    return len(re.findall(r"\sv(?:mulps|fmadd\d+ps|fnmadd\d+ps|fmsub\d+ps)\s.*%ymm", listed))
