"""The GPU's kernels compile for an H200, here: types, registers, and the order in which they add."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from factorstream.worker.kernels import gpu_general_learn, gpu_learn


@pytest.fixture(scope="module")
def kernels():
    """Return what `gpu_compiling` tells of each kernel that it compiled."""
    command = [sys.executable, "-m", "tests.kernels.gpu_compiling"]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "TRITON_INTERPRET": "0"})
    assert compiled.returncode == 0, compiled.stderr[-2000:]
    return [json.loads(line) for line in compiled.stdout.splitlines()]


def test_every_kernel_compiles(kernels):
    sgd = {"learn_runs", "learn_events", "learn_any_runs", "learn_any_events"}
    als = {"solve_rows", "sum_pieces", "solve_long_rows", "newton"}
    clicks = {"solve_pairs", "sum_pair_pieces", "solve_long_pairs"}
    posterior = {"filter_events", "smooth_rows", "meet_rows", "recall_rows", "lessen_rows", "attribute_rows"}
    assert {kernel["kernel"] for kernel in kernels} == sgd | als | clicks | posterior | {"fill"}


def test_no_kernel_is_compiled_anew_for_another_number_of_events(kernels):
    assert {name for kernel in kernels for name in kernel["anew"]} <= {"rank", "said_stride", "told_stride"}


@pytest.mark.parametrize(("capability", "n"), [((7, 5), 16), ((8, 0), 32), ((8, 6), 16), ((8, 9), 24), ((99, 0), 16)])
def test_no_more_programs_wait_for_each_other_than_a_processor_runs(monkeypatch, capability, n):
    device = SimpleNamespace(major=capability[0], minor=capability[1], multi_processor_count=10)
    monkeypatch.setattr(gpu_learn.torch.cuda, "get_device_properties", lambda _: device)
    assert gpu_learn.resident(40) == 10 * n
    assert gpu_learn.resident(8) == 80


def test_programs_that_wait_for_each_other_fit_into_a_processor_together(kernels):
    for name, launcher in (("learn_runs", gpu_learn), ("learn_any_runs", gpu_general_learn)):
        for kernel in kernels:
            if kernel["kernel"] == name:
                assert kernel["registers"] <= launcher.most_registers(kernel["WIDTH"])
                assert not kernel["stack"]
        for width in (16, 32, 64, 128, 256, 512, 1024):
            given_out = -(-launcher.most_registers(width) // 8) * 8
            assert launcher.a_processor(width) * 32 * given_out <= gpu_learn.REGISTERS


def test_an_event_is_summed_in_one_order_by_every_kernel(kernels):
    layouts = {}
    for kernel in kernels:
        if kernel["kernel"].startswith("learn"):
            assert kernel["sums"]
            layouts.setdefault((kernel["WIDTH"], kernel["even"]), set()).update(kernel["sums"])
    assert all(len(found) == 1 for found in layouts.values()), layouts
