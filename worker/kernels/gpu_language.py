"""Triton: compiled for the GPU where one is, interpreted on the processor where none is (or ``TRITON_INTERPRET=1`` asks for it).

Imported before anything else of Triton, which reads the environment when its own functions are defined.
"""

import functools
import os

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    torch.set_num_threads(1)  # what is interpreted is small
os.environ.setdefault("TRITON_INTERPRET", "0" if DEVICE.type == "cuda" else "1")

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

INTERPRETED = tl.constexpr(os.environ["TRITON_INTERPRET"] == "1")

NAN = tl.constexpr(float("nan"))
INFINITY = tl.constexpr(float("inf"))

next_power_of_2, cdiv = triton.next_power_of_2, triton.cdiv

COUNTS = ("n_events", "n_user_reads", "n_rows", "n_places", "first")
"""Arguments that differ from call to call: Triton would compile anew where one is 1, and where 16 divides it."""
PARTS = ("counter", "means", "biases")
"""Columns that may begin anywhere in another, which it would look at too."""

jit = functools.partial(triton.jit, do_not_specialize=COUNTS, do_not_specialize_on_alignment=PARTS)
"""For kernels."""

if INTERPRETED.value:
    # a call of a function of Triton's prepares the interpreter anew, which takes longer than all that the function does

    def inner(function):
        """Leave a function that kernels call as it is."""
        return function

    def total(value, axis):
        return tl.reduce(value, axis, tl.standard._sum_combine)

    def least(value, axis):
        return tl.reduce(value, axis, tl.standard._elementwise_min)

    def most(value, axis):
        return tl.reduce(value, axis, tl.standard._elementwise_max)
else:
    inner, total, least, most = triton.jit, tl.sum, tl.min, tl.max


@inner
def fence():
    """Order all that this program read and wrote before against all after it, as every other program sees it.

    With a barrier before it, what other threads of the program wrote counts too; with one after it, what they read.
    """
    tl.debug_barrier()
    if not INTERPRETED:
        zero = tl.zeros([1], tl.int32)
        tl.inline_asm_elementwise("fence.acq_rel.gpu; mov.u32 $0, $1;", "=r,r", [zero], dtype=tl.int32, is_pure=False, pack=1)
    tl.debug_barrier()


@inner
def finite(value):
    """Whether each number of *value* is one."""
    return tl.abs(value) < INFINITY
