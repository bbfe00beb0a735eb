"""`model.device` has one place to go."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from factorstream.worker.kernels import (
    DEVICES,
    DeviceMissing,
    available_kernels,
    compiled,
    cpu,
    devices,
    filters,
    select,
    selftest,
)
from factorstream.worker.kernels.api import Objective, Penalty, Rates, Side
from tests.kernels.problems import batch_of


def test_auto_takes_what_there_is():
    assert select("auto") in available_kernels()
    assert select("cpu").name == "cpu"


def test_a_device_that_is_missing_says_so():
    if devices.missing():
        with pytest.raises(DeviceMissing, match="choose 'auto' or 'cpu'"):
            select("cuda")


def test_an_unknown_device_names_those_there_are():
    with pytest.raises(DeviceMissing, match=r"'tpu'.*auto, cpu, cuda"):
        select("tpu")
    assert DEVICES[0] == "auto"


def test_nothing_is_compiled_before_it_is_asked_for():
    code = "import sys, factorstream.worker.kernels; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("table", [np.zeros((4, 3)), np.zeros((3, 4), np.float32).T, np.zeros((4, 6), np.float32)[:, :3]])
def test_a_table_that_would_have_to_be_copied_is_refused(table):
    good = Side(np.zeros((4, 3), np.float32), np.zeros(4, np.float32))
    with pytest.raises(TypeError, match="float32"):
        cpu.sgd(
            Side(table, good.biases),
            good,
            batch_of([(0, 0, 1.0)], 0),
            intercept=0.0,
            objective=Objective(Penalty(0, 0, 0, True)),
            rates=Rates(0.1, 0.1, 0),
        )


def test_code_compiled_from_other_sources_is_not_taken(monkeypatch, tmp_path):
    folders = set()
    for name, text in (("one", "a = 1"), ("two", "a = 2"), ("three", "a = 2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "loops.py").write_text(text)
        monkeypatch.setattr(compiled, "__file__", str(tmp_path / name / "compiled.py"))
        folders.add(compiled.cache_folder(str(tmp_path)))
    assert len(folders) == 2


@pytest.mark.parametrize("kernels", available_kernels()[1:], ids=lambda kernels: kernels.name)
def test_the_self_test_passes_what_is_right_and_names_what_is_wrong(kernels):
    differences = selftest.differences(kernels) | selftest.filter_differences(filters(kernels))
    assert max(differences.values()) < selftest.TOLERANCE / 10
    solving = {"als", "logistic als", "implicit", "smooth", "explain"}
    assert set(differences) == {"sgd", "fold-in", "general steps", "general fold-in", "filter", "initialize"} | solving


def test_the_self_test_sees_a_kernel_that_learns_a_tenth_too_fast():
    def hasty(*arguments, rates, **others):
        return cpu.sgd(*arguments, rates=rates._replace(factors=1.1 * rates.factors), **others)

    wrong = SimpleNamespace(sgd=hasty, als=cpu.als, implicit=cpu.implicit, initialize=cpu.initialize)
    differences = selftest.differences(wrong)
    assert differences["sgd"] > selftest.TOLERANCE
    assert differences["als"] < selftest.TOLERANCE
