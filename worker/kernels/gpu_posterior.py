"""Posteriors of rows in Triton: an event, or a row, is one program's work; what each means is in `beliefs.Filters`.

A row's equations are those of its factors, ``M = Σ E[v vᵀ]`` with *g* = ``Σ v`` and *n* = ``Σ 1`` as the bias's border. They are
solved by sweeping the pivots of ``M + noise P`` in registers: what is left is the inverse, which the border turns into variances
and covariances. No pivot is below the prior's share of it, whatever rounding did. A sweep solves for the change from the row as
it is, so that it refines what the last one left; an event, whose row is solved again at the next, from zero.
"""

from factorstream.worker.kernels.gpu_language import NAN, fence, finite, inner, jit, least, tl, total
from factorstream.worker.kernels.gpu_sgd import signal_all, wait, wait_for_all

MEETINGS = tl.constexpr(3.0)
"""`beliefs.MEETINGS`."""
LEAST_INFORMATION = tl.constexpr(1e-4)
"""Relative to the prior's: below it, ratings say nothing of a bias."""


@inner
def all_finite(vector):
    """Whether every number of *vector* is one."""
    return least(finite(vector).to(tl.int32), 0) > 0


@inner
def matrix_places(rank, WIDTH: tl.constexpr):
    """Return where a symmetric matrix is among a row's equations, which hold its upper triangle; and which part is there."""
    k = tl.arange(0, WIDTH)
    column, row = k[:, None], k[None, :]
    low, high = tl.minimum(column, row), tl.maximum(column, row)
    return low * (rank + 1) - low * (low - 1) // 2 + high - low, high < rank


@inner
def border_places(rank, WIDTH: tl.constexpr):
    """Return where the last column of the triangle is, without its last number."""
    k = tl.arange(0, WIDTH)
    return k * (rank + 1) - k * (k - 1) // 2 + rank - k


@inner
def equations_at(equations, row, rank):
    """Return where a row's equations begin, and how many numbers their triangle has."""
    triangle = (rank + 1) * (rank + 2) // 2
    return equations + row * (triangle + 2 * rank + 3), triangle


@inner
def held(equations, row, intercept, rank, WIDTH: tl.constexpr):
    """Return a row's equations, for ratings less *intercept*: matrix, g, n, both right-hand sides, effects met."""
    k = tl.arange(0, WIDTH)
    at, triangle = equations_at(equations, row, rank)
    places, inside = matrix_places(rank, WIDTH)
    matrix = tl.load(at + places, mask=inside, other=0.0)
    g = tl.load(at + border_places(rank, WIDTH), mask=k < rank, other=0.0)
    n = tl.load(at + triangle - 1)
    right, bias_right = tl.load(at + triangle + k, mask=k < rank, other=0.0), tl.load(at + triangle + rank)
    met = tl.load(at + triangle + rank + 1 + k, mask=k < rank, other=0.0)
    bias_met = tl.load(at + triangle + 2 * rank + 1)
    shift = intercept - tl.load(at + triangle + 2 * rank + 2)
    return matrix, g, n, right - shift * g, bias_right - shift * n, met, bias_met


@inner
def put_equations(equations, row, matrix, g, n, right, bias_right, met, bias_met, intercept, fine, rank, WIDTH: tl.constexpr):
    """Write a row's equations if that is *fine*."""
    k = tl.arange(0, WIDTH)
    at, triangle = equations_at(equations, row, rank)
    places, inside = matrix_places(rank, WIDTH)
    width = tl.where(fine, rank, 0)
    tl.store(at + places, matrix, mask=inside & (k[:, None] <= k[None, :]) & (k[None, :] < width))
    tl.store(at + border_places(rank, WIDTH), g, mask=k < width)
    tl.store(at + triangle - 1, n, mask=fine)
    tl.store(at + triangle + k, right, mask=k < width)
    tl.store(at + triangle + rank, bias_right, mask=fine)
    tl.store(at + triangle + rank + 1 + k, met, mask=k < width)
    tl.store(at + triangle + 2 * rank + 1, bias_met, mask=fine)
    tl.store(at + triangle + 2 * rank + 2, intercept, mask=fine)


@inner
def seen(factors, biases, outlook, row, rank, WIDTH: tl.constexpr):
    """Return what the other side sees of a row: its mean, its variances and covariances, and its effects."""
    k = tl.arange(0, WIDTH)
    at = outlook + row * (3 * rank + 2)
    variances, covariances = tl.load(at + k, mask=k < rank, other=0.0), tl.load(at + rank + k, mask=k < rank, other=0.0)
    effects = tl.load(at + 2 * rank + 1 + k, mask=k < rank, other=0.0)
    mean, bias = tl.load(factors + row * WIDTH + k), tl.load(biases + row)
    return mean, bias, variances, covariances, tl.load(at + 2 * rank), effects, tl.load(at + 3 * rank + 1)


@inner
def gathered(factors, biases, outlook, others, ratings, begin, end, intercept, rank, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """Return the equations of a row with the ratings ``begin:end``, and ``Σ E[y²]``."""
    k, numbers = tl.arange(0, WIDTH), 3 * rank + 2
    matrix, g, right = tl.zeros([WIDTH, WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    spread, met = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    targets, squares, bias_met = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)
    for first in range(begin, end, TILE):
        t = first + tl.arange(0, TILE)
        inside = t < end
        both = inside[:, None] & (k[None, :] < rank)
        rows = tl.load(others + t, mask=inside, other=0).to(tl.int64)
        v = tl.load(factors + rows[:, None] * WIDTH + k[None, :], mask=inside[:, None], other=0.0)
        known = intercept + tl.load(biases + rows, mask=inside, other=0.0)
        y = tl.where(inside, tl.load(ratings + t, mask=inside, other=0.0) - known, 0.0)
        places = outlook + rows[:, None] * numbers + k[None, :]
        matrix = tl.dot(tl.trans(v), v, matrix, input_precision="ieee")
        g += total(v, 0)
        right += total(v * y[:, None] - tl.load(places + rank, mask=both, other=0.0), 0)
        spread += total(tl.load(places, mask=both, other=0.0), 0)
        met += total(tl.load(places + 2 * rank + 1, mask=both, other=0.0), 0)
        targets += y
        squares += y * y + tl.load(outlook + rows * numbers + 2 * rank, mask=inside, other=0.0)
        bias_met += tl.load(outlook + rows * numbers + 3 * rank + 1, mask=inside, other=0.0)
    matrix += tl.where(k[:, None] == k[None, :], spread[:, None], 0.0)
    n = (end - begin).to(tl.float32)
    return matrix, g, n, right, total(targets, 0), met, total(bias_met, 0), total(squares, 0)


@inner
def prior_means(met, bias_met, count, level, slope):
    """Return the prior mean of a row that holds *count* ratings, and of its bias."""
    n = count.to(tl.float32)
    share = 1.0 / tl.sqrt(n + MEETINGS)
    return share * met, share * bias_met + level + slope * tl.log(1.0 + n)


@inner
def solved(
    matrix, g, n, right, bias_right, u, b, mean, bias_mean, noise, factor_variance, bias_variance, rank, WIDTH: tl.constexpr
):
    """Return a row's posterior: mean, bias, variances, covariances with the bias, its variance; and two things of the way there.

    These are ``½ Δᵀ A Δ`` of the change from row (u, b), and the precision that the ratings alone give the bias.
    """
    k = tl.arange(0, WIDTH)
    column, row = k[:, None], k[None, :]
    weight, bias_weight = noise / factor_variance, noise / bias_variance
    rest = right + weight * (mean - u) - g * b - total(matrix * u[None, :], 1)
    bias_rest = bias_right + bias_weight * (bias_mean - b) - total(g * u, 0) - n * b
    matrix += tl.where(column == row, tl.where(column < rank, weight, 1.0), 0.0)
    for s in range(rank):
        here = k == s
        pivot_row = total(tl.where(column == s, matrix, 0.0), 0)
        pivot_column = total(tl.where(row == s, matrix, 0.0), 1)
        pivot = tl.maximum(total(tl.where(here, pivot_column, 0.0), 0), weight)
        pivot_row, pivot_column = tl.where(here, -1.0, pivot_row), tl.where(here, -1.0, pivot_column)
        matrix = tl.where((column == s) | (row == s), 0.0, matrix) - (pivot_column / pivot)[:, None] * pivot_row[None, :]
    along = -total(matrix * g[None, :], 1)
    change = -total(matrix * rest[None, :], 1)
    said = tl.maximum(n - total(g * along, 0), 0.0)
    border = said + bias_weight
    bias_change = (bias_rest - total(g * change, 0)) / border
    change -= bias_change * along
    variances = noise * (along * along / border - total(tl.where(column == row, matrix, 0.0), 1))
    gain = 0.5 * (total(rest * change, 0) + bias_rest * bias_change)
    return u + change, b + bias_change, variances, -noise * along / border, noise / border, gain, said / noise


@inner
def put(factors, biases, outlook, row, new, bias, variances, covariances, bias_variance, fine, rank, WIDTH: tl.constexpr):
    """Write a solved row if that is *fine*."""
    k = tl.arange(0, WIDTH)
    at, width = outlook + row * (3 * rank + 2), tl.where(fine, rank, 0)
    tl.store(factors + row * WIDTH + k, new, mask=k < width)
    tl.store(biases + row, bias, mask=fine)
    tl.store(at + k, variances, mask=k < width)
    tl.store(at + rank + k, covariances, mask=k < width)
    tl.store(at + 2 * rank, bias_variance, mask=fine)


@inner
def fine_equations(matrix, g, n, right, bias_right, met, bias_met):
    """Whether all of a row's equations are numbers."""
    vectors = finite(g) & finite(right) & finite(met) & (least(finite(matrix).to(tl.int32), 0) > 0)
    return (least(vectors.to(tl.int32), 0) > 0) & finite(n) & finite(bias_right) & finite(bias_met)


@inner
def learned(
    equations,
    row,
    u,
    count,
    other,
    other_biases,
    other_outlook,
    v,
    c,
    variances,
    covariances,
    effects,
    bias_effect,
    others,
    ratings,
    begin,
    end,
    rating,
    intercept,
    noise,
    factor_variance,
    bias_variance,
    level,
    slope,
    rank,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Write the equations that an event leaves of row u, met by (v, c); return its posterior, and whether that is fine."""
    k = tl.arange(0, WIDTH)
    start = tl.zeros([WIDTH], tl.float32)
    if (end > begin) | (count == 0):
        matrix, g, n, right, bias_right, met, bias_met, _ = gathered(
            other, other_biases, other_outlook, others, ratings, begin, end, intercept, rank, WIDTH, TILE
        )
    else:
        matrix, g, n, right, bias_right, met, bias_met = held(equations, row, intercept, rank, WIDTH)
        y = rating - intercept - c
        matrix += v[:, None] * v[None, :] + tl.where(k[:, None] == k[None, :], variances[:, None], 0.0)
        g += v
        n += 1.0
        right += v * y - covariances
        bias_right += y
        met += effects
        bias_met += bias_effect
        start = tl.where(count == 1, u, 0.0)
    mean, bias_mean = prior_means(met, bias_met, count, level, slope)
    new, bias, new_variances, new_covariances, new_bias_variance, _, _ = solved(
        matrix,
        g,
        n,
        right,
        bias_right,
        tl.zeros([WIDTH], tl.float32),
        0.0,
        mean + start,
        bias_mean,
        noise,
        factor_variance,
        bias_variance,
        rank,
        WIDTH,
    )
    fine = fine_equations(matrix, g, n, right, bias_right, met, bias_met) & all_finite(new) & finite(bias)
    fine = fine & all_finite(new_variances) & all_finite(new_covariances) & finite(new_bias_variance)
    put_equations(equations, row, matrix, g, n, right, bias_right, met, bias_met, intercept, fine, rank, WIDTH)
    return new, bias, new_variances, new_covariances, new_bias_variance, fine


@inner
def wait_for_history(signals, waits, counts, begin, n, TILE: tl.constexpr):
    """Wait for the *n* rows of a history, whose accesses begin at *begin*."""
    for first in range(0, n, TILE):
        wait_for_all(signals, waits, counts, begin + first, n - first, TILE)


@inner
def signal_history(signals, slots, begin, n, TILE: tl.constexpr):
    """Give the rows of a history free."""
    for first in range(0, n, TILE):
        signal_all(signals, slots, begin + first, n - first, TILE)


@jit
def filter_events(
    users,
    user_biases,
    user_equations,
    user_outlook,
    items,
    item_biases,
    item_equations,
    item_outlook,
    user_rows,
    item_rows,
    ratings,
    user_counts,
    item_counts,
    user_starts,
    user_others,
    user_ratings,
    item_starts,
    item_others,
    item_ratings,
    waits,
    counts,
    slots,
    signals,
    counter,
    foreseen,
    n_events,
    n_user_reads,
    rank,
    intercept,
    noise,
    user_variance,
    user_bias_variance,
    user_level,
    user_slope,
    item_variance,
    item_bias_variance,
    item_level,
    item_slope,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Learn from events, one after another: programs take them in order from *counter*, and wait for rows (`gpu_schedule`).

    What other programs read of the event's own rows is written last, when both are solved; a row's equations are its own.
    """
    j = tl.atomic_add(counter, 1, sem="relaxed")
    while j < n_events:
        user, item = tl.load(user_rows + j).to(tl.int64), tl.load(item_rows + j).to(tl.int64)
        first, stop = tl.load(user_starts + j), tl.load(user_starts + j + 1)
        first_user, stop_user = tl.load(item_starts + j), tl.load(item_starts + j + 1)
        of_user, of_item = 2 * n_events + first, 2 * n_events + n_user_reads + first_user
        n_read, n_users_read = (stop - first).to(tl.int32), (stop_user - first_user).to(tl.int32)
        wait(signals, tl.load(waits + j), tl.load(counts + j))
        wait(signals, tl.load(waits + n_events + j), tl.load(counts + n_events + j))
        wait_for_history(signals, waits, counts, of_user, n_read, TILE)
        wait_for_history(signals, waits, counts, of_item, n_users_read, TILE)
        fence()
        u, b, of_u, with_b, of_b, user_effects, user_bias_effect = seen(users, user_biases, user_outlook, user, rank, WIDTH)
        v, c, of_v, with_c, of_c, item_effects, item_bias_effect = seen(items, item_biases, item_outlook, item, rank, WIDTH)
        product, rating = total(u * v, 0), tl.load(ratings + j)
        error = rating - (intercept + b + c + product)
        unsure = total(v * (v * of_u + 2.0 * with_b) + u * (u * of_v + 2.0 * with_c) + of_u * of_v, 0)
        new_u, new_b, new_of_u, new_with_b, new_of_b, user_fine = learned(
            user_equations,
            user,
            u,
            tl.load(user_counts + j),
            items,
            item_biases,
            item_outlook,
            v,
            c,
            of_v,
            with_c,
            item_effects,
            item_bias_effect,
            user_others,
            user_ratings,
            first,
            stop,
            rating,
            intercept,
            noise,
            user_variance,
            user_bias_variance,
            user_level,
            user_slope,
            rank,
            WIDTH,
            TILE,
        )
        new_v, new_c, new_of_v, new_with_c, new_of_c, item_fine = learned(
            item_equations,
            item,
            v,
            tl.load(item_counts + j),
            users,
            user_biases,
            user_outlook,
            u,
            b,
            of_u,
            with_b,
            user_effects,
            user_bias_effect,
            item_others,
            item_ratings,
            first_user,
            stop_user,
            rating,
            intercept,
            noise,
            item_variance,
            item_bias_variance,
            item_level,
            item_slope,
            rank,
            WIDTH,
            TILE,
        )
        tl.store(foreseen + j, tl.where(user_fine & item_fine, error, NAN))
        tl.store(foreseen + n_events + j, b)
        tl.store(foreseen + 2 * n_events + j, c)
        tl.store(foreseen + 3 * n_events + j, product)
        tl.store(foreseen + 4 * n_events + j, noise + of_b + of_c + unsure)
        put(users, user_biases, user_outlook, user, new_u, new_b, new_of_u, new_with_b, new_of_b, user_fine, rank, WIDTH)
        put(items, item_biases, item_outlook, item, new_v, new_c, new_of_v, new_with_c, new_of_c, item_fine, rank, WIDTH)
        fence()
        signal_history(signals, slots, of_user, n_read, TILE)
        signal_history(signals, slots, of_item, n_users_read, TILE)
        tl.atomic_add(signals + tl.load(slots + j), 1, sem="relaxed")
        tl.atomic_add(signals + tl.load(slots + n_events + j), 1, sem="relaxed")
        j = tl.atomic_add(counter, 1, sem="relaxed")


@jit
def smooth_rows(
    own,
    own_biases,
    own_equations,
    own_outlook,
    other,
    other_biases,
    other_outlook,
    rows,
    entries,
    starts,
    others,
    ratings,
    told,
    n_rows,
    rank,
    intercept,
    noise,
    factor_variance,
    bias_variance,
    level,
    slope,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Solve rows from all their ratings, one a program; fill the columns of *told* ``(6, n_rows)``: `beliefs.Smoothed`."""
    k = tl.arange(0, WIDTH)
    entry = tl.load(entries + tl.program_id(0)).to(tl.int64)
    row = tl.load(rows + entry).to(tl.int64)
    begin, end = tl.load(starts + entry), tl.load(starts + entry + 1)
    matrix, g, n, right, bias_right, met, bias_met, squares = gathered(
        other, other_biases, other_outlook, others, ratings, begin, end, intercept, rank, WIDTH, TILE
    )
    u, b = tl.load(own + row * WIDTH + k), tl.load(own_biases + row)
    known = all_finite(u) & finite(b)
    u, b = tl.where(known, u, 0.0), tl.where(known, b, 0.0)
    mean, bias_mean = prior_means(met, bias_met, end - begin, level, slope)
    new, bias, variances, covariances, new_bias_variance, gain, said = solved(
        matrix, g, n, right, bias_right, u, b, mean, bias_mean, noise, factor_variance, bias_variance, rank, WIDTH
    )
    fine = fine_equations(matrix, g, n, right, bias_right, met, bias_met) & all_finite(new) & finite(bias)
    fine = fine & all_finite(variances) & all_finite(covariances) & finite(new_bias_variance)
    put_equations(own_equations, row, matrix, g, n, right, bias_right, met, bias_met, intercept, fine, rank, WIDTH)
    put(own, own_biases, own_outlook, row, new, bias, variances, covariances, new_bias_variance, fine, rank, WIDTH)
    away, bias_away = new - mean, bias - bias_mean
    strayed, unsure = total(new * away, 0), total(tl.where(k < rank, variances, 0.0), 0)
    # Σ E[(y − x·w)²], with the solved equations in the place of the quadratic form
    unexplained = rank + 1 - (strayed + unsure) / factor_variance - (bias * bias_away + new_bias_variance) / bias_variance
    misfit = squares - total(new * right, 0) - bias * bias_right + noise * unexplained
    informed = said * bias_variance > LEAST_INFORMATION
    said = tl.where(informed, said, 1.0)
    alone = bias + (bias - bias_mean) / (bias_variance * said)
    expected = bias_mean - level - slope * tl.log(1.0 + n)
    place = told + entry
    tl.store(place, tl.where(known, tl.maximum(gain, 0.0), float("inf")), mask=fine)
    tl.store(place + n_rows, misfit, mask=fine)
    tl.store(place + 2 * n_rows, total(away * away, 0) + unsure, mask=fine)
    tl.store(place + 3 * n_rows, bias_away * bias_away + new_bias_variance, mask=fine)
    tl.store(place + 4 * n_rows, tl.where(informed, alone - expected, 0.0), mask=fine)
    tl.store(place + 5 * n_rows, tl.where(informed, 1.0 / (1.0 / said + bias_variance), 0.0), mask=fine)
