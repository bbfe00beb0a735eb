"""Rows of any objective in Triton, one a program: proximal Newton steps, each with a line search (`reference_rows`, `cpu_rows`).

Every pass over a row's ratings sums, where the last step led, the objective and its gradient in float64 and the matrix of its
quadratic model in float32; nothing is kept in memory between passes. If the objective did not fall as it should, the step is
halved; else the next one is taken from there, until a step promises nothing. So a rounded matrix may cost a step, and no digits.
With κ or the constraint a model is minimised number by number, as in `cpu_rows.descend`.

A long row is one program's from its first rating to its last, too: it is begun first, and the others run beside it.
"""

from factorstream.worker.kernels import gpu_als
from factorstream.worker.kernels.gpu_als import TILE, old_row
from factorstream.worker.kernels.gpu_language import INFINITY, finite, inner, jit, least, tl, total
from factorstream.worker.kernels.gpu_losses import around, curvature, slope, value

NEWTON_STEPS, PASSES = tl.constexpr(50), tl.constexpr(1000)
"""At most; a row stops as soon as the next step would gain nothing."""
SHORTEST = tl.constexpr(1e-12)
"""A step is halved down to this share of it."""
ENOUGH = tl.constexpr(1e-11)
"""A step that promises less than this share of the objective is not taken."""
STILL = tl.constexpr(1e-15)
"""Numbers have come to rest when none moves the model by more than this share of the objective: the next step begins there."""
WEAK = tl.constexpr(1e-5)
"""A pivot that shrinks below this share of its diagonal leaves a direction without a digit."""


@inner
def look(met, first, intercept, u, b, WIDTH: tl.constexpr):
    """Return ratings from *first* on, which there are, rows of the other side, scores without the row, and what (u, b) adds."""
    other, other_biases, others, ratings, end = met
    k = tl.arange(0, WIDTH)
    t = first + tl.arange(0, TILE)
    inside = t < end
    rows = tl.load(others + t, mask=inside, other=0).to(tl.int64)
    v = tl.load(other + rows[:, None] * WIDTH + k[None, :], mask=inside[:, None], other=0.0)
    offsets = intercept + tl.load(other_biases + rows, mask=inside, other=0.0).to(tl.float64)
    x = tl.load(ratings + t, mask=inside, other=0.0)
    return x, inside, v, offsets, b + total(v * u[None, :], 1)


@inner
def compared(met, begin, intercept, u, b, edges, n_cuts, WIDTH: tl.constexpr, LOSS: tl.constexpr):
    """Return ``Σ ℓ`` at (u, b) and at zero."""
    here, at_zero = tl.zeros([TILE], tl.float64), tl.zeros([TILE], tl.float64)
    for first in range(begin, met[4], TILE):
        x, inside, v, offsets, added = look(met, first, intercept, u, b, WIDTH)
        lower, upper = around(x, edges, n_cuts, LOSS)
        here += tl.where(inside, value(x, offsets + added, lower, upper, LOSS), 0.0)
        # by 0 · v, so that it is no number where v is none
        at_zero += tl.where(inside, value(x, offsets + total(v * 0.0, 1), lower, upper, LOSS), 0.0)
    return total(here, 0), total(at_zero, 0)


@inner
def model_at(met, begin, intercept, u, b, edges, n_cuts, WIDTH: tl.constexpr, LOSS: tl.constexpr, PRECISION: tl.constexpr):
    """Return ``Σ ℓ``, ``Σ ℓ″ v vᵀ``, ``Σ ℓ′ v``, ``Σ ℓ″ v``, ``Σ ℓ′`` and ``Σ ℓ″`` at (u, b)."""
    matrix = tl.zeros([WIDTH, WIDTH], tl.float32)
    gradient, g = tl.zeros([WIDTH], tl.float64), tl.zeros([WIDTH], tl.float64)
    lost, steep, bend = tl.zeros([TILE], tl.float64), tl.zeros([TILE], tl.float64), tl.zeros([TILE], tl.float64)
    for first in range(begin, met[4], TILE):
        x, inside, v, offsets, added = look(met, first, intercept, u, b, WIDTH)
        s = offsets + added
        lower, upper = around(x, edges, n_cuts, LOSS)
        slopes = tl.where(inside, slope(x, s, lower, upper, LOSS), 0.0)
        bends = tl.where(inside, curvature(x, s, lower, upper, LOSS), 0.0)
        matrix = tl.dot(tl.trans(v * bends.to(tl.float32)[:, None]), v, matrix, input_precision=PRECISION)
        gradient += total(v * slopes[:, None], 0)
        g += total(v * bends[:, None], 0)
        lost += tl.where(inside, value(x, s, lower, upper, LOSS), 0.0)
        steep += slopes
        bend += bends
    return total(lost, 0), matrix, gradient, g, total(steep, 0), total(bend, 0)


@inner
def cost(u, b, weights):
    """Return what the size of (u, b) costs; *weights* are its λ, κ and μ."""
    ridge, lasso, bias_ridge = weights
    return 0.5 * ridge * total(u * u, 0) + lasso * total(tl.abs(u), 0) + 0.5 * bias_ridge * b * b


@inner
def descend(matrix, g, bend, gradient, gradient_b, u, b, lasso, still, rank, BIASED, NONNEGATIVE, WIDTH: tl.constexpr):
    """Return the minimiser of the model with κ and the constraint, one number after another; exact zeros.

    Once the signs hold, the numbers that are not zero are solved at once, which ends it where these signs are the minimiser's.
    *matrix* and *bend* hold λ and μ.
    """
    k = tl.arange(0, WIDTH)
    column, row = k[:, None], k[None, :]
    diagonal = total(tl.where(column == row, matrix, 0.0), 1)
    z, z_b, steep, steep_b = u, b, gradient, gradient_b
    n_passes, attempt, resting = rank * 0, rank * 0 + 2, rank < 0
    while not resting:
        moved, n_turned = 0.0 * gradient_b, rank * 0
        for s in range(rank):
            here = k == s
            old, slope_here = total(tl.where(here, z, 0.0), 0), total(tl.where(here, steep, 0.0), 0)
            weight = total(tl.where(here, diagonal, 0.0), 0)
            free = old * weight - slope_here
            size = tl.maximum(tl.abs(free) - lasso, 0.0) / weight
            best = tl.where(free > 0, size, 0.0 if NONNEGATIVE else -size)
            best = tl.where(weight > 0, best, old)
            change = best - old
            steep += change * total(tl.where(column == s, matrix, 0.0), 0)
            steep_b += change * total(tl.where(here, g, 0.0), 0)
            z = tl.where(here, best, z)
            moved = tl.maximum(moved, weight * change * change)
            n_turned += ((best != old) & (best * old <= 0)).to(tl.int32)
        if BIASED:
            change = tl.where(bend > 0, -steep_b / bend, 0.0)
            steep += change * g
            steep_b += change * bend
            z_b += change
            moved = tl.maximum(moved, bend * change * change)
        n_passes += 1
        resting = ~(moved > still) | (n_passes >= PASSES)
        if ~resting & (n_turned == 0) & (n_passes >= attempt):
            attempt = 2 * n_passes
            free = z != 0
            part = tl.where(free[:, None] & free[None, :], matrix, tl.where((column == row) & ~free[:, None], 1.0, 0.0))
            left = tl.where(free, -steep - tl.where(z > 0, lasso, -lasso), 0.0)
            step, step_b, _, strong = gpu_als.solve(
                part,
                left.to(tl.float32),
                tl.where(free, g, 0.0).to(tl.float32),
                -steep_b.to(tl.float32),
                bend.to(tl.float32),
                tl.zeros([WIDTH], tl.float32),
                0.0,
                rank,
                0.0,
                0.0,
                WEAK,
                WIDTH,
            )
            stays = strong & (least(((z == 0) | ((z + step) * z > 0)).to(tl.int32), 0) > 0)
            step, step_b = tl.where(stays, step, 0.0), tl.where(stays, step_b, 0.0)
            z += step
            z_b += step_b
            steep += total(matrix * step[None, :], 1) + step_b * g
            steep_b += total(g * step, 0) + step_b * bend
    return z, z_b


@jit
def newton(
    own,
    own_biases,
    other,
    other_biases,
    rows,
    entries,
    starts,
    others,
    ratings,
    edges,
    gains,
    weak,
    rank,
    n_cuts,
    intercept,
    penalty,
    lasso,
    bias_penalty,
    WEIGHTED: tl.constexpr,
    BIASED: tl.constexpr,
    SMOOTH: tl.constexpr,
    NONNEGATIVE: tl.constexpr,
    LOSS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Solve rows, one a program; *gains* are float64. A row that meets what is no number stays as it is."""
    k = tl.arange(0, WIDTH)
    column, row_of_matrix = k[:, None], k[None, :]
    entry = tl.load(entries + tl.program_id(0)).to(tl.int64)
    row = tl.load(rows + entry).to(tl.int64)
    begin, end = tl.load(starts + entry), tl.load(starts + entry + 1)
    met = other, other_biases, others, ratings, end
    weight = (end - begin).to(tl.float64) if WEIGHTED else 1.0
    weights = weight * penalty, weight * lasso, weight * bias_penalty
    ridge, kink, bias_ridge = weights
    u, b, fine = old_row(own, own_biases, row, WIDTH)
    u, b = u.to(tl.float64), b.to(tl.float64)
    before, now = compared(met, begin, intercept, u, b, edges, n_cuts, WIDTH, LOSS)
    before += cost(u, b, weights)
    sound = finite(now)
    stays = before < now
    u, b = tl.where(stays, u, 0.0), tl.where(stays & BIASED, b, 0.0)
    before, now = tl.where(fine & finite(before), before, INFINITY), tl.where(stays, before, now)
    to, to_b, step, step_b = u, b, 0.0 * u, 0.0 * b
    share, promised, allowed = 0.0 * b + 1.0, 0.0 * b, 0.0 * b + INFINITY
    n_steps, strong, going = rank * 0, rank > 0, sound & (end > begin)
    while going:
        lost, matrix, gradient, g, gradient_b, bend = model_at(
            met, begin, intercept, to, to_b, edges, n_cuts, WIDTH, LOSS, PRECISION
        )
        reached = lost + cost(to, to_b, weights)
        if reached <= allowed + 1e-4 * share * promised:
            u, b, now, allowed = to, to_b, reached, reached
            gradient += ridge * u
            gradient_b += bias_ridge * b
            bend += bias_ridge
            if SMOOTH:
                if BIASED:
                    border, left_b, corner = g.to(tl.float32), -gradient_b.to(tl.float32), bend.to(tl.float32)
                else:
                    border, left_b, corner = tl.zeros([WIDTH], tl.float32), 0.0, (0.0 * bend + 1.0).to(tl.float32)
                new, new_b, _, well = gpu_als.solve(
                    matrix,
                    -gradient.to(tl.float32),
                    border,
                    left_b,
                    corner,
                    tl.zeros([WIDTH], tl.float32),
                    0.0,
                    rank,
                    ridge.to(tl.float32),
                    0.0,
                    WEAK,
                    WIDTH,
                )
                step, step_b, strong = new.to(tl.float64), new_b.to(tl.float64), well
            else:
                matrix += tl.where((column == row_of_matrix) & (column < rank), ridge.to(tl.float32), 0.0)
                border, corner = (g, bend) if BIASED else (0.0 * g, 0.0 * bend + 1.0)
                left_b = gradient_b if BIASED else 0.0 * gradient_b
                still = STILL * (1.0 + tl.abs(now))
                new, new_b = descend(
                    matrix, border, corner, gradient, left_b, u, b, kink, still, rank, BIASED, NONNEGATIVE, WIDTH
                )
                step, step_b = new - u, new_b - b
            promised = total(gradient * step, 0) + gradient_b * step_b + kink * (total(tl.abs(u + step), 0) - total(tl.abs(u), 0))
            n_steps += 1
            share = 0.0 * share + 1.0
            strong = strong & finite(promised) & (n_steps < NEWTON_STEPS)
            going = strong & (promised < -ENOUGH * (1.0 + tl.abs(now)))
        else:
            share = 0.5 * share
            going = share > SHORTEST
        to, to_b = u + share * step, b + share * step_b
        if NONNEGATIVE:
            to = tl.maximum(to, 0.0)
    new, new_b = u.to(tl.float32), b.to(tl.float32)
    strong = strong & (least(finite(new).to(tl.int32), 0) > 0) & finite(new_b)
    tl.store(own + row * WIDTH + k, new, mask=k < tl.where(strong & sound, WIDTH, 0))
    tl.store(own_biases + row, new_b, mask=strong & sound)
    tl.store(gains + entry, tl.maximum(before - now, 0.0), mask=strong & sound)
    tl.store(weak + entry, tl.where(strong | ~sound, 0, 1))
