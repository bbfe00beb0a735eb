"""Compile every kernel of the GPU's for an H200, which needs no GPU; print what became of each, one JSON object a line.

A program of its own: Triton either compiles or interprets. ``TRITON_INTERPRET=0`` is to be set.
"""

import inspect
import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from factorstream.worker.kernels import (
    gpu_als,
    gpu_effects,
    gpu_filter,
    gpu_general,
    gpu_general_learn,
    gpu_implicit,
    gpu_learn,
    gpu_posterior,
    gpu_rows,
    gpu_sgd,
    gpu_solve,
    gpu_start,
    losses,
)

INTEGERS = {"rank", "n_events", "n_rows", "n_user_reads", "first", "n_places", "said_stride", "told_stride"}
LONG = {"user_starts", "item_starts", "starts", "piece_begins", "start"}
NUMBERS = {"intercept", "rate", "bias_rate", "decay", "power", "deviation", "noise", "factor_weight", "bias_weight"}
NUMBERS |= {"alpha", "lasso", "lowest", "n_cuts"}
ENDINGS = ("penalty", "variance", "level", "slope", "ridge")
"""Of the names of other numbers."""
COLUMNS = {"rows", "entries", "counts", "waits", "slots", "signals", "counter", "others", "events", "weak", "firsts", "changes"}

FLOATS, HISTORIES = ("*fp32", "*fp32"), ("*i64", "*i32", "*fp32")
TOGETHER = {
    "users": FLOATS,
    "items": FLOATS,
    "user_moments": (*FLOATS, *FLOATS, "*i32"),
    "item_moments": (*FLOATS, *FLOATS, "*i32"),
    "user_histories": HISTORIES,
    "item_histories": HISTORIES,
    "weights": ("fp32",) * 5,
    "stepping": ("fp32",) * 4,
    "turning": ("fp32",) * 7,
}
"""What the kernels of `gpu_general` take as one."""
WIDE = {"edges", "room"}


def compiled(kernel, options, *, even=True, **constants):
    """Compile *kernel* as it is for torch's tensors, and for a rank that 16 divides if that is *even*; *options* are Triton's."""
    function = kernel.fn
    names, signature = list(inspect.signature(function).parameters), {}
    for name in names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in TOGETHER and function.__name__.startswith("learn_any"):
            signature[name] = TOGETHER[name]
        elif name in INTEGERS:
            signature[name] = "i32"
        elif name in NUMBERS or name.endswith(ENDINGS):
            signature[name] = "fp32"
        elif name in WIDE or (function.__name__, name) == ("newton", "gains"):
            signature[name] = "*fp64"
        elif name in LONG and not (name == "starts" and function.__name__ in ("learn_runs", "learn_any_runs", "meet_rows")):
            signature[name] = "*i64"
        elif name.split("_")[-1] in COLUMNS or name == "starts":
            signature[name] = "*i32"
        else:
            signature[name] = "*fp32"
    kinds = {(names.index(name),): kind for name, kind in signature.items() if isinstance(kind, str)}
    kinds |= {
        (names.index(name), i): kind for name, one in signature.items() if isinstance(one, tuple) for i, kind in enumerate(one)
    }
    aligned = [not param.do_not_specialize_on_alignment for param in kernel.params]
    even_places = [
        place for place, kind in kinds.items() if (kind[0] == "*" and aligned[place[0]]) or (even and names[place[0]] == "rank")
    ]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={place: [["tt.divisibility", 16]] for place in even_places},
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def report(kernel, options, *, even=True, **constants):
    made = compiled(kernel, options, even=even, **constants)
    anew = [param.name for param in kernel.params if param.name in INTEGERS and not param.do_not_specialize]
    told = {"kernel": kernel.fn.__name__, "even": even, "anew": anew, **constants, **resources(made)}
    told["sums"] = sums(made, constants["WIDTH"])
    print(json.dumps(told), flush=True)


def resources(made):
    """Return registers and bytes of stack of a thread."""
    tool = next(Path(triton.__file__).parent.glob("backends/nvidia/bin/cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        told = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {"registers": int(re.search(r"REG:(\d+)", told)[1]), "stack": int(re.search(r"STACK:(\d+)", told)[1])}


def sums(made, width):
    """Return the layouts in which float32 vectors of *width* numbers are summed."""
    text = made.asm["ttgir"]
    layouts = dict(re.findall(r"^(#\w+) = (#ttg\.blocked<.*>)", text, flags=re.MULTILINE))
    found = re.findall(rf"addf.*?\n.*?\n\s*}}\) : \(tensor<{width}xf32, (#\w+)>\) -> f32", text)
    return sorted({layouts[name] for name in found})


def warps(n):
    return {"num_warps": n}


def runs(launcher, width):
    """Return how *launcher* has its kernel of runs compiled."""
    return {**gpu_learn.IN_ORDER, "maxnreg": launcher.most_registers(width)}


for width, means, even in ((64, False, True), (64, True, True), (64, False, False), (128, True, True)):
    report(gpu_sgd.learn_runs, runs(gpu_learn, width), even=even, WEIGHTED=False, MEANS=means, WIDTH=width)
    for longest in (1, 16):
        report(gpu_sgd.learn_events, gpu_learn.IN_ORDER, even=even, WEIGHTED=False, MEANS=means, WIDTH=width, LONGEST=longest)
for loss, optimizer, width in ((3, 4, 64), (2, 0, 128)):
    chosen = {"LOSS": loss, "OPTIMIZER": optimizer, "WEIGHTED": False, "WIDTH": width}
    report(gpu_general.learn_any_runs, runs(gpu_general_learn, width), **chosen)
    if width == 64:
        report(gpu_general.learn_any_events, gpu_learn.IN_ORDER, BIASED=True, LONGEST=8, **chosen)
for width in (16, 64):
    for precision in ("ieee", "tf32x3"):
        report(gpu_als.solve_rows, warps(gpu_solve.warps(width)), WEIGHTED=False, WIDTH=width, PRECISION=precision)
    report(gpu_als.sum_pieces, warps(gpu_solve.warps(width)), WIDTH=width, PIECE=gpu_solve.PIECE, PRECISION=gpu_solve.PRECISION)
    report(gpu_als.solve_long_rows, warps(gpu_solve.warps(width)), WEIGHTED=True, WIDTH=width, PIECE=gpu_solve.PIECE)
# of 64: as well, in half a minute
report(gpu_posterior.filter_events, gpu_learn.IN_ORDER, even=False, WIDTH=16, TILE=gpu_filter.TILE)
report(gpu_posterior.smooth_rows, warps(gpu_solve.warps(64)), WIDTH=64, TILE=gpu_filter.LONG_TILE)
report(gpu_effects.meet_rows, warps(1), WIDTH=16)
report(gpu_effects.recall_rows, warps(1), WIDTH=16, TILE=16)
report(gpu_effects.lessen_rows, warps(1), WIDTH=16, TILE=16)
report(gpu_effects.attribute_rows, warps(gpu_effects.CHAIN_WARPS.value), WIDTH=16, TILE=gpu_effects.CHAIN_TILE.value)
for kernel, how in (
    (gpu_implicit.solve_pairs, {"PRECISION": gpu_solve.PRECISION}),
    (gpu_implicit.sum_pair_pieces, {"PRECISION": gpu_solve.PRECISION, "PIECE": gpu_solve.PIECE}),
    (gpu_implicit.solve_long_pairs, {"PIECE": gpu_solve.PIECE}),
):
    report(kernel, warps(gpu_solve.warps(64)), WIDTH=64, **how)
for loss, smooth, nonnegative in ((losses.ORDINAL, True, False), (losses.POISSON, False, True)):
    how = {"WEIGHTED": smooth, "BIASED": not nonnegative, "SMOOTH": smooth, "NONNEGATIVE": nonnegative, "LOSS": loss}
    report(gpu_rows.newton, warps(8), WIDTH=64, PRECISION=gpu_solve.PRECISION, **how)
report(gpu_start.fill, {}, WIDTH=64)
