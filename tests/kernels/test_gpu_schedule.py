"""Who waits for whom on a GPU: whatever the interleaving, every event sees the rows that it would see one after another, and none
waits for ever. Programs are played here, a step at a time, in an order that is drawn."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.kernels import gpu_schedule
from factorstream.worker.kernels.gpu_tables import batch_on_device
from tests.kernels.problems import batch_of


@st.composite
def streams(draw):
    n_users, n_items = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    pairs = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1), st.just(3.0))
    return draw(st.lists(pairs, min_size=1, max_size=30))


class Rows:
    """Versions of rows: how often each was written."""

    def __init__(self):
        self.now = {}

    def see(self, row):
        return self.now.get(row, 0)

    def write(self, row):
        self.now[row] = self.see(row) + 1


def accesses_of(batch):
    """Yield each event's own two rows and those that it reads, all with their place in an `Order`."""
    n, n_reads = len(batch.ratings), len(batch.user_histories.others)
    for j in range(n):
        user, item = ("user", int(batch.user_rows[j])), ("item", int(batch.item_rows[j]))
        reads = []
        for histories, side, first, own in (
            (batch.user_histories, "item", 2 * n, item),
            (batch.item_histories, "user", 2 * n + n_reads, user),
        ):
            for h in range(histories.starts[j], histories.starts[j + 1]):
                row = (side, int(histories.others[h]))
                if row != own:
                    reads.append((row, first + h))
        yield [(user, j), (item, n + j)], reads


def expected_versions(batch):
    rows, seen = Rows(), []
    for writes, reads in accesses_of(batch):
        seen.append([rows.see(row) for row, _ in (*writes, *reads)])
        for row, _ in writes:
            rows.write(row)
    return seen


def play(programs, random):
    """Run generators, each step of one drawn; fail when all that are left wait."""
    running = list(programs)
    waiting = set()
    while running:
        able = [program for program in running if program not in waiting]
        assert able, "every program waits"
        program = able[random.integers(len(able))]
        outcome = next(program, "done")
        if outcome == "done":
            running.remove(program)
        if outcome == "wait":
            waiting.add(program)
        else:
            waiting.clear()


def event_programs(batch, order, n_programs, seen, *, copies):
    """Return programs that take events in order from a counter: as `gpu_sgd.learn_events` does, which *copies* what it reads and
    gives it free, or as `gpu_posterior.filter_events`, which holds it to the end."""
    wait, count, signal = (column.tolist() for column in order)
    signals, events, rows = [0] * len(wait), iter(enumerate(accesses_of(batch))), Rows()

    def ready(place):
        return wait[place] < 0 or signals[wait[place]] >= count[place]

    def program():
        for j, (writes, reads) in events:
            yield "took"
            for _, place in (*writes, *reads):
                while not ready(place):
                    yield "wait"
            seen[j] = [rows.see(row) for row, _ in (*writes, *reads)]
            for _, place in reads if copies else ():
                yield "read"
                signals[signal[place]] += 1
            yield "solved"
            for row, _ in writes:
                rows.write(row)
            yield "written"
            for _, place in writes if copies else (*reads, *writes):
                signals[signal[place]] += 1
                yield "signalled"

    return [program() for _ in range(n_programs)]


@given(streams(), st.sampled_from([0, 2, 40]), st.integers(1, 6), st.integers(0, 2**32), st.booleans())
def test_events_see_what_they_would_see_one_after_another(events, fold_in, n_programs, seed, copies):
    batch = batch_of(events, fold_in)
    seen = [None] * len(events)
    order = gpu_schedule.order_of(batch_on_device(batch))
    play(event_programs(batch, order, n_programs, seen, copies=copies), np.random.default_rng(seed))
    assert seen == expected_versions(batch)


def run_programs(batch, n_programs, seen):
    """Return programs that go through runs, as `gpu_sgd.learn_runs` does."""
    there = batch_on_device(batch)
    n = len(batch.ratings)
    wait, _, signal = (column.tolist() for column in gpu_schedule.order_of(there))
    window = gpu_schedule.window_of(there.item_rows, n_programs)
    events, starts = (column.tolist() for column in gpu_schedule.runs_of(there.item_rows, window))
    signals, runs, rows, own = [0] * (2 * n), iter(range(n)), Rows(), list(accesses_of(batch))

    def ready(place):
        return wait[place] < 0 or signals[wait[place]] >= 1

    def program():
        for run in runs:
            line = events[starts[run] : starts[run + 1]]
            if not line:
                return
            yield "took"
            while not ready(n + line[0]):
                yield "wait"
            item = own[line[0]][0][1][0]
            version, told, at = rows.see(item), 0, 0
            while at < len(line):
                group = 0
                while at + group < len(line) and group < 3 and ready(line[at + group]):
                    group += 1
                for event in line[told:at]:
                    signals[signal[event]] += 1
                yield "signalled" if told < at or group else "wait"  # what it signals may be what it waits for
                told = at
                for event in line[at : at + group]:
                    user = own[event][0][0][0]
                    seen[event] = [rows.see(user), version]
                    rows.write(user)
                    version += 1
                    yield "stepped"
                at += group
            rows.now[item] = version
            for event in line[told:]:
                signals[signal[event]] += 1
            signals[signal[n + line[-1]]] += 1
            yield "done with a run"

    return [program() for _ in range(n_programs)]


@given(streams(), st.integers(1, 6), st.integers(0, 2**32))
def test_runs_see_what_events_would_see_one_after_another(events, n_programs, seed):
    batch = batch_of(events, 0)
    seen = [None] * len(events)
    play(run_programs(batch, n_programs, seen), np.random.default_rng(seed))
    assert seen == expected_versions(batch)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 8))
def test_a_window_has_no_more_items_than_programs(items, n_programs):
    rows = torch.tensor(items, dtype=torch.int32)
    window = gpu_schedule.window_of(rows, n_programs)
    assert all(len(set(items[first : first + window])) <= n_programs for first in range(0, len(items), window))
