"""SGD in Triton for any loss, penalty, constraint and optimizer: what `gpu_sgd` is not for, in the same exact order.

Everything that chooses a formula is known when a kernel is compiled. What belongs together comes as one tuple:

    a side's tables     factors, biases
    a side's moments    first of factors, of biases, second of factors, of biases, Adam's t (`gpu_moments`)
    weights             λ of users, of items, μ, κ of users, of items
    stepping            η of factors, of biases, decay, power
    turning             β₁, 1 − β₁, log β₁, β₂, 1 − β₂, log β₂, ε of the optimizer
"""

from typing import get_args

from factorstream.worker.kernels.api import OptimizerName
from factorstream.worker.kernels.gpu_fold import gathered, minimiser
from factorstream.worker.kernels.gpu_language import NAN, fence, finite, inner, jit, least, tl
from factorstream.worker.kernels.gpu_losses import steepest, steepness
from factorstream.worker.kernels.gpu_sgd import GROUP, cooled, note, products_of, signal, signal_all, wait, wait_for_all

OPTIMIZERS = get_args(OptimizerName)
PLAIN, MOMENTUM, ADAGRAD, RMSPROP, ADAM = (tl.constexpr(OPTIMIZERS.index(name)) for name in OPTIMIZERS)


@inner
def row_of(tables, row, WIDTH: tl.constexpr):
    """Return a row's factors and its bias."""
    factors, biases = tables
    return tl.load(factors + row * WIDTH + tl.arange(0, WIDTH)), tl.load(biases + row)


@inner
def keep_row(tables, row, vector, bias, WIDTH: tl.constexpr):
    """Write a row."""
    factors, biases = tables
    tl.store(factors + row * WIDTH + tl.arange(0, WIDTH), vector)
    tl.store(biases + row, bias)


@inner
def moments_of(moments, row, OPTIMIZER: tl.constexpr, WIDTH: tl.constexpr):
    """Return what the optimizer remembers of a row: first and second, of its factors and of its bias, and t."""
    first, first_biases, second, second_biases, steps = moments
    m, m_bias = tl.full([WIDTH], 0.0, tl.float32), tl.full([], 0.0, tl.float32)
    s, s_bias, t = m, m_bias, tl.full([], 0, tl.int32)
    if (OPTIMIZER == MOMENTUM) | (OPTIMIZER == ADAM):
        m, m_bias = row_of((first, first_biases), row, WIDTH)
    if OPTIMIZER >= ADAGRAD:
        s, s_bias = row_of((second, second_biases), row, WIDTH)
    if OPTIMIZER == ADAM:
        t = tl.load(steps + row)
    return m, m_bias, s, s_bias, t


@inner
def keep_moments(moments, row, m, m_bias, s, s_bias, t, OPTIMIZER: tl.constexpr, WIDTH: tl.constexpr):
    """Write what the optimizer remembers of a row."""
    first, first_biases, second, second_biases, steps = moments
    if (OPTIMIZER == MOMENTUM) | (OPTIMIZER == ADAM):
        keep_row((first, first_biases), row, m, m_bias, WIDTH)
    if OPTIMIZER >= ADAGRAD:
        keep_row((second, second_biases), row, s, s_bias, WIDTH)
    if OPTIMIZER == ADAM:
        tl.store(steps + row, t)


@inner
def share_of(other_norm, heat, stepping):
    """Return what share of the error a row's step takes back: ``η |v|² + η_b``."""
    rate, bias_rate, _, _ = stepping
    return (rate * other_norm + bias_rate) * heat


@inner
def pull_of(x, score, taken, edges, n_cuts, turning, LOSS: tl.constexpr, OPTIMIZER: tl.constexpr):
    """Return ∂ℓ/∂s to step by; *taken* is the share of the error that the steps would take back: at most half of it may be.

    NaN where nothing is stepped.
    """
    steep = steepness(x, score, edges, n_cuts, LOSS)
    if OPTIMIZER <= MOMENTUM:
        if OPTIMIZER == MOMENTUM:
            taken /= turning[1]
        taken *= steepest(x, score, LOSS)
        steep = tl.where(taken <= 0.5, steep, steep * (0.5 / taken))
    return steep


@inner
def turned(g, m, s, rate, left1, left2, turning, OPTIMIZER: tl.constexpr):
    """Return the optimizer's direction in the gradient's place, its rate in the place of η, and its new state."""
    beta1, rest1, _, beta2, rest2, _, epsilon = turning
    direction = g
    if OPTIMIZER == MOMENTUM:
        m = beta1 * m + g
        direction = m
    if OPTIMIZER == ADAGRAD:
        s += g * g
        rate /= tl.sqrt(s) + epsilon
    if OPTIMIZER >= RMSPROP:
        s = beta2 * s + rest2 * g * g
        rate /= tl.sqrt(s / left2) + epsilon
    if OPTIMIZER == ADAM:
        m = beta1 * m + rest1 * g
        direction = m / left1
    return direction, rate, m, s


@inner
def soft(number, threshold):
    """Return *number* moved towards zero by *threshold*, not beyond it; NaN stays."""
    return number - tl.minimum(tl.maximum(number, -threshold), threshold)


@inner
def stepped(
    old,
    bias,
    other,
    pull,
    count,
    heat,
    state,
    weights,
    rank,
    stepping,
    turning,
    OPTIMIZER: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Return a row and its bias after a step, the optimizer's state after it, and whether all that is finite.

    As they were if it is not, or if there is no step: *pull* is no number. *weights* are λ, μ, κ and the least factor.
    """
    m, m_bias, s, s_bias, t = state
    ridge, bias_ridge, lasso, lowest = weights
    left1, left2 = 1.0, 1.0
    if OPTIMIZER == ADAM:
        left1 = (1.0 - tl.exp((t + 1).to(tl.float64) * turning[2])).to(tl.float32)
        left2 = (1.0 - tl.exp((t + 1).to(tl.float64) * turning[5])).to(tl.float32)
    g, g_bias, weight = pull * other, pull, 1.0
    if WEIGHTED:
        g, g_bias = g + ridge * old, g_bias + bias_ridge * bias
    else:
        weight = 1.0 / tl.maximum(count, 1).to(tl.float32)
    direction, rate, new_m, new_s = turned(g, m, s, stepping[0] * heat, left1, left2, turning, OPTIMIZER)
    bias_direction, bias_rate, new_m_bias, new_s_bias = turned(
        g_bias, m_bias, s_bias, stepping[1] * heat, left1, left2, turning, OPTIMIZER
    )
    new, new_bias = soft(old - rate * direction, rate * weight * lasso), bias - bias_rate * bias_direction
    if not WEIGHTED:
        new, new_bias = new / (1.0 + rate * weight * ridge), new_bias / (1.0 + bias_rate * weight * bias_ridge)
    new = tl.where(tl.arange(0, WIDTH) < rank, tl.where(new < lowest, lowest, new), 0.0)
    whole = finite(new) & finite(new_m + new_s)
    fine = (least(whole.to(tl.int32), 0) > 0) & finite(new_bias) & finite(new_m_bias + new_s_bias)
    steps = fine & finite(pull)
    return (
        tl.where(steps, new, old),
        tl.where(steps, new_bias, bias),
        tl.where(steps, new_m, m),
        tl.where(steps, new_m_bias, m_bias),
        tl.where(steps, new_s, s),
        tl.where(steps, new_s_bias, s_bias),
        t + steps.to(tl.int32),
        fine | ~finite(pull),
    )


@jit
def learn_any_runs(
    users,
    items,
    user_moments,
    item_moments,
    events,
    starts,
    user_rows,
    item_rows,
    ratings,
    user_counts,
    item_counts,
    waits,
    slots,
    signals,
    counter,
    scored,
    edges,
    n_cuts,
    n_events,
    rank,
    intercept,
    lowest,
    weights,
    stepping,
    turning,
    LOSS: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Learn from events of which none folds in, one run after another, as `gpu_sgd.learn_runs` does.

    The item's row, and what the optimizer remembers of it, stay in registers from the run's first event to its last.
    """
    lanes = tl.arange(0, GROUP)
    user_ridge, item_ridge, bias_ridge, user_lasso, item_lasso = weights
    of_users, of_items = (user_ridge, bias_ridge, user_lasso, lowest), (item_ridge, bias_ridge, item_lasso, lowest)
    run = tl.atomic_add(counter, 1, sem="relaxed")
    begin = tl.load(starts + tl.minimum(run, n_events))
    while begin < n_events:
        end = tl.load(starts + run + 1)
        item = tl.load(item_rows + begin).to(tl.int64)
        wait(signals, tl.load(waits + n_events + begin), 1)
        fence()
        v, c = row_of(items, item, WIDTH)
        m, m_bias, s, s_bias, t = moments_of(item_moments, item, OPTIMIZER, WIDTH)
        told = begin
        at = begin
        while at < end:
            here = at + lanes
            mask = here < end
            turns = tl.load(waits + here, mask=mask, other=-1)
            arrived = tl.load(signals + turns, mask=mask & (turns >= 0), other=1, volatile=True)
            ready = least(tl.where(mask & (arrived > 0), GROUP, lanes), 0)
            fence()
            back = told + lanes
            signal(signals, tl.load(slots + back, mask=back < at, other=0), back < at)
            told = at
            stop = at + ready
            while at < stop:
                user = tl.load(user_rows + at).to(tl.int64)
                u, b = row_of(users, user, WIDTH)
                state = moments_of(user_moments, user, OPTIMIZER, WIDTH)
                product, user_norm, item_norm = products_of(u, v)
                x, score = tl.load(ratings + at), intercept + b + c + product
                n_user, n_item = tl.load(user_counts + at), tl.load(item_counts + at)
                user_heat, item_heat = cooled(n_user, stepping[2], stepping[3]), cooled(n_item, stepping[2], stepping[3])
                taken = share_of(item_norm, user_heat, stepping) + share_of(user_norm, item_heat, stepping)
                pull = pull_of(x, score, taken, edges, n_cuts, turning, LOSS, OPTIMIZER)
                new_u, new_b, first, first_bias, second, second_bias, steps, user_moves = stepped(
                    u, b, v, pull, n_user, user_heat, state, of_users, rank, stepping, turning, OPTIMIZER, WEIGHTED, WIDTH
                )
                keep_row(users, user, new_u, new_b, WIDTH)
                keep_moments(user_moments, user, first, first_bias, second, second_bias, steps, OPTIMIZER, WIDTH)
                c_before, state = c, (m, m_bias, s, s_bias, t)
                v, c, m, m_bias, s, s_bias, t, item_moves = stepped(
                    v, c, u, pull, n_item, item_heat, state, of_items, rank, stepping, turning, OPTIMIZER, WEIGHTED, WIDTH
                )
                error = tl.where(user_moves & item_moves, x - score, NAN)
                note(scored, tl.load(events + at), n_events, error, b, c_before, product)
                at += 1
        keep_row(items, item, v, c, WIDTH)
        keep_moments(item_moments, item, m, m_bias, s, s_bias, t, OPTIMIZER, WIDTH)
        fence()
        back = told + lanes
        signal(signals, tl.load(slots + back, mask=back < end, other=0), back < end)
        tl.atomic_add(signals + tl.load(slots + n_events + end - 1), 1, sem="relaxed")
        run = tl.atomic_add(counter, 1, sem="relaxed")
        begin = tl.load(starts + tl.minimum(run, n_events))


@jit
def learn_any_events(
    users,
    items,
    user_moments,
    item_moments,
    user_rows,
    item_rows,
    ratings,
    user_counts,
    item_counts,
    user_histories,
    item_histories,
    waits,
    counts,
    slots,
    signals,
    counter,
    room,
    scored,
    edges,
    n_cuts,
    n_events,
    n_user_reads,
    rank,
    intercept,
    lowest,
    weights,
    stepping,
    turning,
    LOSS: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BIASED: tl.constexpr,
    WIDTH: tl.constexpr,
    LONGEST: tl.constexpr,
):
    """Learn from events that may fold in, one after another, as `gpu_sgd.learn_events` does; *room* is `gpu_fold.room_of`.

    Both rows of an event are solved by one loop, so that the solver is compiled once.
    """
    user_ridge, item_ridge, bias_ridge, user_lasso, item_lasso = weights
    of_users, of_items = (user_ridge, bias_ridge, user_lasso, lowest), (item_ridge, bias_ridge, item_lasso, lowest)
    user_starts, user_others, user_ratings = user_histories
    item_starts, item_others, item_ratings = item_histories
    a_side = LONGEST * (WIDTH + 3) + WIDTH
    mine = room + tl.program_id(0).to(tl.int64) * (2 * a_side)
    j = tl.atomic_add(counter, 1, sem="relaxed")
    while j < n_events:
        user, item = tl.load(user_rows + j).to(tl.int64), tl.load(item_rows + j).to(tl.int64)
        first, first_user = tl.load(user_starts + j), tl.load(item_starts + j)
        n_read = (tl.load(user_starts + j + 1) - first).to(tl.int32)
        n_users_read = (tl.load(item_starts + j + 1) - first_user).to(tl.int32)
        of_user, of_item = 2 * n_events + first, 2 * n_events + n_user_reads + first_user
        wait(signals, tl.load(waits + j), tl.load(counts + j))
        wait(signals, tl.load(waits + n_events + j), tl.load(counts + n_events + j))
        if n_read + n_users_read > 0:
            wait_for_all(signals, waits, counts, of_user, n_read, LONGEST)
            wait_for_all(signals, waits, counts, of_item, n_users_read, LONGEST)
            fence()
            gathered(mine, items, user_others, user_ratings, first, n_read, intercept, WIDTH, LONGEST)
            gathered(mine + a_side, users, item_others, item_ratings, first_user, n_users_read, intercept, WIDTH, LONGEST)
            fence()
            signal_all(signals, slots, of_user, n_read, LONGEST)
            signal_all(signals, slots, of_item, n_users_read, LONGEST)
        else:
            fence()
        u, b = row_of(users, user, WIDTH)
        v, c = row_of(items, item, WIDTH)
        product, user_norm, item_norm = products_of(u, v)
        x, score = tl.load(ratings + j), intercept + b + c + product
        n_user, n_item = tl.load(user_counts + j), tl.load(item_counts + j)
        user_heat, item_heat = cooled(n_user, stepping[2], stepping[3]), cooled(n_item, stepping[2], stepping[3])
        taken = tl.where(n_read > 0, 0.0, share_of(item_norm, user_heat, stepping))
        taken += tl.where(n_users_read > 0, 0.0, share_of(user_norm, item_heat, stepping))
        pull = pull_of(x, score, taken, edges, n_cuts, turning, LOSS, OPTIMIZER)
        new_u, new_b, user_moves = u, b, n_read >= 0
        new_v, new_c, item_moves = v, c, n_read >= 0
        if n_read == 0:
            state = moments_of(user_moments, user, OPTIMIZER, WIDTH)
            new_u, new_b, m, m_bias, s, s_bias, t, user_moves = stepped(
                u, b, v, pull, n_user, user_heat, state, of_users, rank, stepping, turning, OPTIMIZER, WEIGHTED, WIDTH
            )
            keep_moments(user_moments, user, m, m_bias, s, s_bias, t, OPTIMIZER, WIDTH)
        if n_users_read == 0:
            state = moments_of(item_moments, item, OPTIMIZER, WIDTH)
            new_v, new_c, m, m_bias, s, s_bias, t, item_moves = stepped(
                v, c, u, pull, n_item, item_heat, state, of_items, rank, stepping, turning, OPTIMIZER, WEIGHTED, WIDTH
            )
            keep_moments(item_moments, item, m, m_bias, s, s_bias, t, OPTIMIZER, WIDTH)
        for side in range(2):
            n = tl.where(side == 0, n_read, n_users_read)
            if n > 0:
                weight = n.to(tl.float64) if WEIGHTED else tl.full([], 1.0, tl.float64)
                ridge, lasso = tl.where(side == 0, user_ridge, item_ridge), tl.where(side == 0, user_lasso, item_lasso)
                bias_weight = 1.0 / (weight * bias_ridge) if BIASED else 0.0 * weight
                how = weight * ridge, weight * bias_ridge, weight * lasso, bias_weight, lowest
                old, old_bias = tl.where(side == 0, u, v), tl.where(side == 0, b, c)
                new, new_bias, moves = minimiser(
                    mine + side * a_side, old, old_bias, n, rank, how, edges, n_cuts, LOSS, WIDTH, LONGEST
                )
                if side == 0:
                    new_u, new_b, user_moves = tl.where(moves, new, u), tl.where(moves, new_bias, b), moves
                else:
                    new_v, new_c, item_moves = tl.where(moves, new, v), tl.where(moves, new_bias, c), moves
        keep_row(users, user, new_u, new_b, WIDTH)
        keep_row(items, item, new_v, new_c, WIDTH)
        note(scored, j, n_events, tl.where(user_moves & item_moves, x - score, NAN), b, c, product)
        fence()
        tl.atomic_add(signals + tl.load(slots + j), 1, sem="relaxed")
        tl.atomic_add(signals + tl.load(slots + n_events + j), 1, sem="relaxed")
        j = tl.atomic_add(counter, 1, sem="relaxed")
