import pytest

from factorstream.worker.kernels import memory


@pytest.fixture(autouse=True, scope="module")
def small_machine():
    """Reserve address space as on a machine with 64 MB: hundreds of workers crash here, and their reservations add up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "physical_memory", lambda: 1 << 26)
        yield
