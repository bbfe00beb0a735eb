"""A row folded in for any objective, in Triton: proximal Newton steps, each with a line search, as in `cpu_rows`.

The quadratic model of a step, ``½ |R A z − τ|² + h(z)`` with ``h(z) = ½ λ |u|² + κ |u|₁ + ½ μ b²`` (and u ≥ 0), has K numbers
and n ratings, n ≤ 32, and κ and the constraint make it not smooth. Its dual has n numbers and is smooth for λ > 0:

    min over γ of  ½ |γ|² − γ·τ + h*(Aᵀ R γ),   z = ∇h*(y):  u = soft(y, κ) / λ, or max(y − κ, 0) / λ;  b = y_b / μ

So it is solved by Newton's method too (semismooth: who is zero tells the second derivative, an n × n matrix), and numbers that
are zero are zero exactly. Where h is smooth, one step does. All in float64, in one warp; what a row met is a tile in memory,
``(LONGEST, WIDTH)``.

Source: Li, Sun and Toh, SIAM J. Optim. 28(1), 2018 (semismooth Newton in the dual).
"""

from factorstream.worker.kernels.gpu_language import INFINITY, finite, inner, least, tl, total
from factorstream.worker.kernels.gpu_losses import SQUARED, around, curvature, slope, value

NEWTON_STEPS, MODEL_STEPS, HALVINGS = tl.constexpr(50), tl.constexpr(50), tl.constexpr(40)
"""At most; a row stops as soon as the next step would gain nothing."""
ENOUGH = tl.constexpr(1e-11)
"""A step that promises less than this share of the objective is not taken."""
STILL = tl.constexpr(1e-20)
"""A model is solved where it can fall by no more than this share of it."""
ROUNDING = tl.constexpr(1e-14)
"""A share of the model in which rounding hides whether it falls."""
FLAT = tl.constexpr(1e-12)
"""The least curvature that a model has: its dual divides by the root of it."""


def room_of(width: int, longest: int) -> int:
    """Return how many numbers a row's problem has room for (`places`)."""
    return longest * (width + 3) + width


@inner
def places(room, WIDTH: tl.constexpr, LONGEST: tl.constexpr):
    """Return where things are in *room*: the rows met, their scores without this one, ratings, and one number each, twice."""
    offsets = room + LONGEST * WIDTH
    return room, offsets, offsets + LONGEST, offsets + 2 * LONGEST, offsets + 3 * LONGEST


@inner
def gathered(room, tables, others, ratings, begin, n, intercept, WIDTH: tl.constexpr, LONGEST: tl.constexpr):
    """Copy a history to *room*, zeros around it."""
    vectors, offsets, targets, _, _ = places(room, WIDTH, LONGEST)
    factors, biases = tables
    t, k = tl.arange(0, LONGEST), tl.arange(0, WIDTH)
    inside = t < n
    rows = tl.load(others + begin + t, mask=inside, other=0).to(tl.int64)
    tile = tl.load(factors + rows[:, None] * WIDTH + k[None, :], mask=inside[:, None], other=0.0)
    tl.store(vectors + t[:, None] * WIDTH + k[None, :], tile.to(tl.float64))
    offset = tl.where(inside, intercept + tl.load(biases + rows, mask=inside, other=0.0), 0.0)
    tl.store(offsets + t, offset.to(tl.float64))
    tl.store(targets + t, tl.load(ratings + begin + t, mask=inside, other=0.0).to(tl.float64))


@inner
def reached_by(vectors, w, n, WIDTH: tl.constexpr, LONGEST: tl.constexpr):
    """Return what *w* adds to the score of each rating."""
    t, k = tl.arange(0, LONGEST), tl.arange(0, WIDTH)
    found = tl.full([LONGEST], 0.0, tl.float64)
    for s in range(n):
        found = tl.where(t == s, total(tl.load(vectors + s * WIDTH + k) * w, 0), found)
    return found


@inner
def objective(x, scores, lower, upper, inside, w, bias, weights, LOSS: tl.constexpr):
    """Return F."""
    ridge, bias_ridge, lasso, _, _ = weights
    losses = total(tl.where(inside, value(x, scores, lower, upper, LOSS), 0.0), 0)
    return losses + total(w * w * (0.5 * ridge) + tl.abs(w) * lasso, 0) + 0.5 * bias_ridge * bias * bias


@inner
def of_dual(gamma, root, goal, vectors, pulls, n, weights, WIDTH: tl.constexpr, LONGEST: tl.constexpr):
    """Return the dual model at γ, its gradient, z and its bias, by how much these move scores, and which numbers move with y."""
    ridge, bias_ridge, lasso, bias_weight, lowest = weights
    k = tl.arange(0, WIDTH)
    pulled = root * gamma
    tl.store(pulls + tl.arange(0, LONGEST), pulled)
    tl.debug_barrier()
    y = tl.full([WIDTH], 0.0, tl.float64)
    for s in range(n):
        y += tl.load(pulls + s) * tl.load(vectors + s * WIDTH + k)
    tl.debug_barrier()
    z = (y - tl.minimum(tl.maximum(y, -lasso), lasso)) / ridge
    z = tl.where(z < lowest, lowest, z)
    active = tl.where((y >= lasso) | ((y <= -lasso) & (lowest < 0)), 1.0, 0.0)
    bias = bias_weight * total(pulled, 0)
    reached = tl.where(tl.arange(0, LONGEST) < n, reached_by(vectors, z, n, WIDTH, LONGEST) + bias, 0.0)
    dual = 0.5 * (total(gamma * (gamma - 2.0 * goal), 0) + ridge * total(z * z, 0) + bias_ridge * bias * bias)
    return dual, gamma - goal + root * reached, z, bias, reached, active


@inner
def newton(gradient, root, active, vectors, actives, n, rank, weights, WIDTH: tl.constexpr, LONGEST: tl.constexpr):
    """Return Newton's step of the dual, ``−(I + R (A_S A_Sᵀ / λ + 1 1ᵀ / μ) R)⁻¹ gradient``, by Gauss and Jordan."""
    ridge, _, _, bias_weight, _ = weights
    t = tl.arange(0, LONGEST)
    column, row = t[:, None], t[None, :]
    tl.store(actives + tl.arange(0, WIDTH), active / ridge)
    tl.debug_barrier()
    matrix = tl.full([LONGEST, LONGEST], 0.0, tl.float64) + bias_weight
    for k in range(rank):
        matrix += tl.load(actives + k) * tl.load(vectors + column * WIDTH + k) * tl.load(vectors + row * WIDTH + k)
    tl.debug_barrier()
    matrix = root[:, None] * root[None, :] * matrix + tl.where(column == row, 1.0, 0.0)
    right = -gradient
    for s in range(n):
        pivot_row = total(tl.where(column == s, matrix, 0.0), 0)
        scale = total(tl.where(row == s, matrix, 0.0), 1) / total(tl.where(t == s, pivot_row, 0.0), 0)
        scale = tl.where(t == s, 0.0, scale)
        matrix -= scale[:, None] * pivot_row[None, :]
        right -= scale * total(tl.where(t == s, right, 0.0), 0)
    return right / total(tl.where(column == row, matrix, 0.0), 1)


@inner
def least_of_model(gamma, root, goal, vectors, scratch, n, rank, weights, WIDTH: tl.constexpr, LONGEST: tl.constexpr):
    """Return the z that minimises the model, its bias, and by how much they move the scores; *gamma* is a guess."""
    pulls, actives = scratch
    direction, share, n_steps, n_halvings = 0.0 * gamma, 1.0, 0, 0
    fall, limit = 0.0 * total(gamma, 0), INFINITY + 0.0 * total(gamma, 0)
    z, bias, reached = tl.full([WIDTH], 0.0, tl.float64), 0.0 * fall, direction
    while n_steps < MODEL_STEPS:
        trial = gamma + share * direction
        dual, gradient, z, bias, reached, active = of_dual(trial, root, goal, vectors, pulls, n, weights, WIDTH, LONGEST)
        if (dual > limit + share * 1e-4 * fall) & (n_halvings < HALVINGS):
            share *= 0.5
            n_halvings += 1
        else:
            gamma, share, n_steps, n_halvings = trial, 1.0, n_steps + 1, 0
            limit = dual + ROUNDING * (1.0 + tl.abs(dual))
            if total(gradient * gradient, 0) > STILL * (1.0 + tl.abs(dual)):
                direction = newton(gradient, root, active, vectors, actives, n, rank, weights, WIDTH, LONGEST)
                fall = total(gradient * direction, 0)
            else:
                n_steps = MODEL_STEPS
    return z, bias, reached


@inner
def minimiser(
    room, old, old_bias, n, rank, weights, edges, n_cuts, LOSS: tl.constexpr, WIDTH: tl.constexpr, LONGEST: tl.constexpr
):
    """Return the factors and the bias that minimise a row's objective, float32, and whether they do.

    *room* is what `gathered` filled, before a fence; *weights* are λ, μ, κ, 1 / μ (zero without a bias) and the least factor.
    """
    vectors, offsets, targets, pulls, actives = places(room, WIDTH, LONGEST)
    ridge, bias_ridge, lasso, _, _ = weights
    t = tl.arange(0, LONGEST)
    inside = t < n
    offset, x = tl.load(offsets + t), tl.load(targets + t)
    lower, upper = around(x, edges, n_cuts, LOSS)
    w, bias = old.to(tl.float64), old_bias.to(tl.float64)
    reached = tl.where(inside, reached_by(vectors, w, n, WIDTH, LONGEST) + bias, 0.0)
    now = objective(x, offset + reached, lower, upper, inside, w, bias, weights, LOSS)
    nothing = tl.full([WIDTH], 0.0, tl.float64)
    of_zero = objective(x, offset, lower, upper, inside, nothing, 0.0 * bias_ridge, weights, LOSS)
    warm = now < of_zero
    w, bias = tl.where(warm, w, 0.0), tl.where(warm, bias, 0.0)
    reached, now = tl.where(warm, reached, 0.0), tl.where(warm, now, of_zero)
    n_steps = 0
    while n_steps < NEWTON_STEPS:
        scores = offset + reached
        steep = tl.where(inside, slope(x, scores, lower, upper, LOSS), 0.0)
        bend = tl.sqrt(tl.maximum(curvature(x, scores, lower, upper, LOSS), FLAT))
        root, gamma = tl.where(inside, bend, 0.0), tl.where(inside, -steep / bend, 0.0)
        z, new_bias, moved = least_of_model(
            gamma, root, root * reached + gamma, vectors, (pulls, actives), n, rank, weights, WIDTH, LONGEST
        )
        turn, bias_turn, moved = z - w, new_bias - bias, moved - reached
        promised = total(steep * moved, 0) + bias_ridge * bias * bias_turn
        promised += total(ridge * w * turn + lasso * (tl.abs(z) - tl.abs(w)), 0)
        share, then, n_halvings = 1.0, now, 0
        searching = promised < -ENOUGH * (1.0 + tl.abs(now))
        n_steps += 1
        if ~searching | (LOSS == SQUARED):
            n_steps = NEWTON_STEPS
        while searching:
            new, new_bias = w + share * turn, bias + share * bias_turn
            then = objective(x, scores + share * moved, lower, upper, inside, new, new_bias, weights, LOSS)
            if then <= now + 1e-4 * share * promised:
                w, bias, reached, now = new, new_bias, reached + share * moved, then
                searching = promised > 0
            else:
                share *= 0.5
                n_halvings += 1
                if n_halvings >= HALVINGS:
                    n_steps = NEWTON_STEPS
                    searching = promised > 0
    new, new_bias = w.to(tl.float32), bias.to(tl.float32)
    known = total(0.0 * offset, 0) + total(0.0 * reached_by(vectors, 0.0 * w, n, WIDTH, LONGEST), 0) == 0.0
    return new, new_bias, known & (least(finite(new).to(tl.int32), 0) > 0) & finite(new_bias)
