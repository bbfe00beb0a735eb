"""Stochastic gradient descent in Triton: exact order, many events at the same time (`gpu_schedule` says who waits for whom).

Programs take work in order from a counter, so whatever a program waits for has been taken by one that runs. Every program is one
warp, and every sum over a row's factors is made in the same layout, so that an event's bits depend on no other. For that, rows
have WIDTH places in their tables, a power of two, with zeros behind the factors.
"""

from factorstream.worker.kernels.gpu_language import NAN, fence, finite, inner, jit, least, most, tl, total

GROUP = tl.constexpr(16)
"""Events of one run whose users are asked for together, between two fences."""


@inner
def wait(signals, slot, count):
    """Wait until *slot* has counted to *count*; a slot below zero is nothing to wait for."""
    if slot >= 0:
        while tl.load(signals + slot, volatile=True) < count:
            pass


@inner
def signal(signals, slots, mask):
    """Count at *slots*; a fence must be before it."""
    tl.atomic_add(signals + slots, 1, mask=mask, sem="relaxed")


@inner
def step_of(pull, count, penalty, bias_penalty, rate, bias_rate, WEIGHTED: tl.constexpr):
    """Return a row's move: ``u ← keep u + step v``, ``b ← bias_keep b + bias_step``; proximal when λ is not weighted."""
    if WEIGHTED:
        return 1.0 - rate * penalty, rate * pull, 1.0 - bias_rate * bias_penalty, bias_rate * pull
    else:
        n = tl.maximum(count, 1).to(tl.float32)
        keep, bias_keep = n / (n + rate * penalty), n / (n + bias_rate * bias_penalty)
        return keep, keep * rate * pull, bias_keep, bias_keep * bias_rate * pull


@inner
def cooled(count, decay, power):
    """Return what is left of the rates of a row that holds *count* ratings."""
    n = tl.maximum(count, 1).to(tl.float32)
    return tl.exp(-power * tl.log(n)) / (1.0 + decay * n)


@inner
def moved(old, other, bias, step, bias_keep, bias_step, keep, mean, bias_mean):
    """Return a row and its bias after a step, as they were if that would not be finite, and whether it was."""
    new = keep * old + step * other + (1.0 - keep) * mean
    new_bias = bias_keep * bias + bias_step + (1.0 - bias_keep) * bias_mean
    fine = (least(finite(new).to(tl.int32), 0) > 0) & finite(new_bias)
    return tl.where(fine, new, old), tl.where(fine, new_bias, bias), fine


@inner
def mean_of(means, event, rank, WIDTH: tl.constexpr, MEANS: tl.constexpr):
    """Return the prior mean of an event's row, and of its bias: of *means* ``(n, rank + 1)``, or zero."""
    k = tl.arange(0, WIDTH)
    if MEANS:
        place = means + event.to(tl.int64) * (rank + 1)
        return tl.load(place + k, mask=k < rank, other=0.0), tl.load(place + rank)
    else:
        return tl.zeros([WIDTH], tl.float32), 0.0


@inner
def products_of(u, v):
    """Return u·v, |u|² and |v|²."""
    return total(u * v, 0), total(u * u, 0), total(v * v, 0)


@inner
def pull_of(error, taken_back):
    """Return the error to step by: of the whole one, at most half is taken back at once."""
    return tl.where(taken_back <= 0.5, error, error * (0.5 / taken_back))


@inner
def note(scored, event, n_events, error, user_bias, item_bias, product):
    """Fill an event's column of *scored* ``(4, n_events)``: `api.Scored`."""
    place = scored + event
    tl.store(place, error)
    tl.store(place + n_events, user_bias)
    tl.store(place + 2 * n_events, item_bias)
    tl.store(place + 3 * n_events, product)


@jit
def learn_runs(
    users,
    user_biases,
    items,
    item_biases,
    events,
    starts,
    user_rows,
    item_rows,
    ratings,
    user_counts,
    item_counts,
    user_means,
    item_means,
    waits,
    slots,
    signals,
    counter,
    scored,
    n_events,
    rank,
    intercept,
    user_penalty,
    item_penalty,
    bias_penalty,
    rate,
    bias_rate,
    decay,
    power,
    WEIGHTED: tl.constexpr,
    MEANS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Learn from events of which none folds in, one run after another; *user_rows* to *item_counts* are in that order.

    ``starts[n_events]`` is n_events, where programs look that find no run left. *waits* and *slots* are users' first, then
    items'. The item's row stays in registers from the run's first event to its last. Users are asked for in groups: those at the
    front whose turn it is are stepped, and what they leave is signalled after the next fence, which also makes sure that the
    users of the next group are read as they were left.
    """
    k = tl.arange(0, WIDTH)
    lanes = tl.arange(0, GROUP)
    run = tl.atomic_add(counter, 1, sem="relaxed")
    begin = tl.load(starts + tl.minimum(run, n_events))
    while begin < n_events:
        end = tl.load(starts + run + 1)
        item = tl.load(item_rows + begin).to(tl.int64)
        wait(signals, tl.load(waits + n_events + begin), 1)
        fence()
        v = tl.load(items + item * WIDTH + k)
        c = tl.load(item_biases + item)
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
            user = tl.load(user_rows + at).to(tl.int64)
            next_u = tl.load(users + user * WIDTH + k)
            next_b = tl.load(user_biases + user)
            while at < stop:
                u, b, own = next_u, next_b, user
                after = tl.minimum(at + 1, end - 1)
                user = tl.load(user_rows + after).to(tl.int64)
                next_u = tl.load(users + user * WIDTH + k)
                next_b = tl.load(user_biases + user)
                product, user_norm, item_norm = products_of(u, v)
                error = tl.load(ratings + at) - (intercept + b + c + product)
                n, m = tl.load(user_counts + at), tl.load(item_counts + at)
                user_heat, item_heat = cooled(n, decay, power), cooled(m, decay, power)
                taken = (rate * item_norm + bias_rate) * user_heat + (rate * user_norm + bias_rate) * item_heat
                pull = pull_of(error, taken)
                keep, step, bias_keep, bias_step = step_of(
                    pull, n, user_penalty, bias_penalty, rate * user_heat, bias_rate * user_heat, WEIGHTED
                )
                event = tl.load(events + at)
                mean, bias_mean = mean_of(user_means, event, rank, WIDTH, MEANS)
                new_u, new_b, user_moves = moved(u, v, b, step, bias_keep, bias_step, keep, mean, bias_mean)
                keep, step, bias_keep, bias_step = step_of(
                    pull, m, item_penalty, bias_penalty, rate * item_heat, bias_rate * item_heat, WEIGHTED
                )
                c_before = c
                mean, bias_mean = mean_of(item_means, event, rank, WIDTH, MEANS)
                v, c, item_moves = moved(v, u, c, step, bias_keep, bias_step, keep, mean, bias_mean)
                tl.store(users + own * WIDTH + k, new_u)
                tl.store(user_biases + own, new_b)
                note(scored, event, n_events, tl.where(user_moves & item_moves, error, NAN), b, c_before, product)
                at += 1
        tl.store(items + item * WIDTH + k, v)
        tl.store(item_biases + item, c)
        fence()
        back = told + lanes
        signal(signals, tl.load(slots + back, mask=back < end, other=0), back < end)
        tl.atomic_add(signals + tl.load(slots + n_events + end - 1), 1, sem="relaxed")
        run = tl.atomic_add(counter, 1, sem="relaxed")
        begin = tl.load(starts + tl.minimum(run, n_events))


@inner
def gathered(vectors, factors, biases, others, ratings, begin, n, mean, level, WIDTH: tl.constexpr, LONGEST: tl.constexpr):
    """Copy a history's rows to *vectors* ``(LONGEST, WIDTH)``, zeros around them; return the targets: x − level − c − mean·v."""
    t, k = tl.arange(0, LONGEST), tl.arange(0, WIDTH)
    inside = t < n
    rows = tl.load(others + begin + t, mask=inside, other=0).to(tl.int64)
    places = rows[:, None] * WIDTH + k[None, :]
    tile = tl.load(factors + places, mask=inside[:, None], other=0.0)
    tl.store(vectors + t[:, None] * WIDTH + k[None, :], tile)
    targets = tl.load(ratings + begin + t, mask=inside, other=0.0) - level - tl.load(biases + rows, mask=inside, other=0.0)
    targets -= total(tile * mean[None, :], 1)
    return tl.where(inside, targets, 0.0)


@inner
def solved(vectors, targets, n, rank, penalty, bias_penalty, WIDTH: tl.constexpr, LONGEST: tl.constexpr):
    """Return the factors and the bias that minimise a row's objective, and whether they are finite.

    In the n × n dual ``(V Vᵀ + λ I) α = r − b 1``, ``u = Vᵀ α``, ``b = λ 1·M⁻¹r / (λ 1·M⁻¹1 + μ)``, by Gauss and Jordan in
    float64, so that n may exceed K and λ be small.
    """
    t = tl.arange(0, LONGEST)
    column, row = t[:, None], t[None, :]
    matrix = tl.where(column == row, tl.where(column < n, penalty, 1.0), 0.0).to(tl.float64)
    for k in range(rank):
        matrix += tl.load(vectors + column * WIDTH + k).to(tl.float64) * tl.load(vectors + row * WIDTH + k).to(tl.float64)
    left, right = targets.to(tl.float64), tl.where(t < n, 1.0, 0.0).to(tl.float64)
    for s in range(n):
        pivot_row = total(tl.where(column == s, matrix, 0.0), 0)
        pivot_column = total(tl.where(row == s, matrix, 0.0), 1)
        pivot = total(tl.where(t == s, pivot_column, 0.0), 0)
        scale = tl.where(t == s, 0.0, pivot_column / pivot)
        matrix -= scale[:, None] * pivot_row[None, :]
        left -= scale * total(tl.where(t == s, left, 0.0), 0)
        right -= scale * total(tl.where(t == s, right, 0.0), 0)
    diagonal = total(tl.where(column == row, matrix, 0.0), 1)
    left, right = left / diagonal, right / diagonal
    bias = penalty * total(left, 0) / (penalty * total(right, 0) + bias_penalty)
    left -= bias * right
    k = tl.arange(0, WIDTH)
    new = tl.zeros([WIDTH], tl.float64)
    for s in range(n):
        new += total(tl.where(t == s, left, 0.0), 0) * tl.load(vectors + s * WIDTH + k).to(tl.float64)
    new, bias = new.to(tl.float32), bias.to(tl.float32)
    return new, bias, (least(finite(new).to(tl.int32), 0) > 0) & finite(bias)


@inner
def wait_for_all(signals, waits, counts, begin, n, LONGEST: tl.constexpr):
    """Wait for *n* slots from *begin* on, each until it has counted what *counts* says."""
    t = tl.arange(0, LONGEST)
    slots = tl.load(waits + begin + t, mask=t < n, other=-1)
    wanted = tl.load(counts + begin + t, mask=t < n, other=0)
    waiting = 1
    while waiting > 0:
        arrived = tl.load(signals + slots, mask=slots >= 0, other=2147483647, volatile=True)
        waiting = most((arrived < wanted).to(tl.int32), 0)


@inner
def signal_all(signals, slots, begin, n, LONGEST: tl.constexpr):
    """Count at *n* slots from *begin* on."""
    t = tl.arange(0, LONGEST)
    signal(signals, tl.load(slots + begin + t, mask=t < n, other=0), t < n)


@jit
def learn_events(
    users,
    user_biases,
    items,
    item_biases,
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
    user_means,
    item_means,
    waits,
    counts,
    slots,
    signals,
    counter,
    room,
    scored,
    n_events,
    n_user_reads,
    rank,
    intercept,
    user_penalty,
    item_penalty,
    bias_penalty,
    rate,
    bias_rate,
    decay,
    power,
    WEIGHTED: tl.constexpr,
    MEANS: tl.constexpr,
    WIDTH: tl.constexpr,
    LONGEST: tl.constexpr,
):
    """Learn from events that may fold in, one after another; *room* is ``(programs, 2, LONGEST, WIDTH)``.

    What is read for a fold-in is copied at its turn and given free at once; only the event's own rows are held to the end.
    """
    k = tl.arange(0, WIDTH)
    of_items = room + tl.program_id(0).to(tl.int64) * (2 * LONGEST * WIDTH)
    of_users = of_items + LONGEST * WIDTH
    j = tl.atomic_add(counter, 1, sem="relaxed")
    while j < n_events:
        user, item = tl.load(user_rows + j).to(tl.int64), tl.load(item_rows + j).to(tl.int64)
        first, first_user = tl.load(user_starts + j), tl.load(item_starts + j)
        n_read = (tl.load(user_starts + j + 1) - first).to(tl.int32)
        n_users_read = (tl.load(item_starts + j + 1) - first_user).to(tl.int32)
        of_user, of_item = 2 * n_events + first, 2 * n_events + n_user_reads + first_user
        wait(signals, tl.load(waits + j), tl.load(counts + j))
        wait(signals, tl.load(waits + n_events + j), tl.load(counts + n_events + j))
        mean, bias_mean = mean_of(user_means, j, rank, WIDTH, MEANS)
        item_mean, item_bias_mean = mean_of(item_means, j, rank, WIDTH, MEANS)
        user_targets, item_targets = tl.zeros([LONGEST], tl.float32), tl.zeros([LONGEST], tl.float32)
        if n_read + n_users_read > 0:
            wait_for_all(signals, waits, counts, of_user, n_read, LONGEST)
            wait_for_all(signals, waits, counts, of_item, n_users_read, LONGEST)
            fence()
            user_targets = gathered(
                of_items,
                items,
                item_biases,
                user_others,
                user_ratings,
                first,
                n_read,
                mean,
                intercept + bias_mean,
                WIDTH,
                LONGEST,
            )
            item_targets = gathered(
                of_users,
                users,
                user_biases,
                item_others,
                item_ratings,
                first_user,
                n_users_read,
                item_mean,
                intercept + item_bias_mean,
                WIDTH,
                LONGEST,
            )
            fence()
            signal_all(signals, slots, of_user, n_read, LONGEST)
            signal_all(signals, slots, of_item, n_users_read, LONGEST)
        else:
            fence()
        u = tl.load(users + user * WIDTH + k)
        v = tl.load(items + item * WIDTH + k)
        b, c = tl.load(user_biases + user), tl.load(item_biases + item)
        product, user_norm, item_norm = products_of(u, v)
        error = tl.load(ratings + j) - (intercept + b + c + product)
        n, m = tl.load(user_counts + j), tl.load(item_counts + j)
        user_heat, item_heat = cooled(n, decay, power), cooled(m, decay, power)
        taken = tl.where(n_read > 0, 0.0, (rate * item_norm + bias_rate) * user_heat)
        taken += tl.where(n_users_read > 0, 0.0, (rate * user_norm + bias_rate) * item_heat)
        pull = pull_of(error, taken)
        if n_read > 0:
            weight = n_read.to(tl.float32) if WEIGHTED else 1.0
            solution, bias, user_moves = solved(
                of_items, user_targets, n_read, rank, weight * user_penalty, weight * bias_penalty, WIDTH, LONGEST
            )
            new_u, new_b = tl.where(user_moves, solution + mean, u), tl.where(user_moves, bias + bias_mean, b)
        else:
            keep, step, bias_keep, bias_step = step_of(
                pull, n, user_penalty, bias_penalty, rate * user_heat, bias_rate * user_heat, WEIGHTED
            )
            new_u, new_b, user_moves = moved(u, v, b, step, bias_keep, bias_step, keep, mean, bias_mean)
        if n_users_read > 0:
            weight = n_users_read.to(tl.float32) if WEIGHTED else 1.0
            solution, bias, item_moves = solved(
                of_users, item_targets, n_users_read, rank, weight * item_penalty, weight * bias_penalty, WIDTH, LONGEST
            )
            new_v, new_c = tl.where(item_moves, solution + item_mean, v), tl.where(item_moves, bias + item_bias_mean, c)
        else:
            keep, step, bias_keep, bias_step = step_of(
                pull, m, item_penalty, bias_penalty, rate * item_heat, bias_rate * item_heat, WEIGHTED
            )
            new_v, new_c, item_moves = moved(v, u, c, step, bias_keep, bias_step, keep, item_mean, item_bias_mean)
        tl.store(users + user * WIDTH + k, new_u)
        tl.store(user_biases + user, new_b)
        tl.store(items + item * WIDTH + k, new_v)
        tl.store(item_biases + item, new_c)
        note(scored, j, n_events, tl.where(user_moves & item_moves, error, NAN), b, c, product)
        fence()
        tl.atomic_add(signals + tl.load(slots + j), 1, sem="relaxed")
        tl.atomic_add(signals + tl.load(slots + n_events + j), 1, sem="relaxed")
        j = tl.atomic_add(counter, 1, sem="relaxed")
