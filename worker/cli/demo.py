"""``factorstream demo``: real Kafka, real Redis, real ratings, and a worker between them, for everybody to watch."""

from __future__ import annotations

import fcntl
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorstream.worker.cli.printing import shown_version
from factorstream.worker.errors import DataUnavailable, ServiceFailed, UserMistake

if TYPE_CHECKING:
    from rich.console import Console

    from factorstream import Reader
    from factorstream.worker.cli.demo_view import View
    from factorstream.worker.history import History
    from factorstream.worker.local.children import Child
    from factorstream.worker.local.services import Services

TOPIC, MODEL = "ratings", "films"
DATA = Path(".data/ml-100k")
RATE = 4_000.0
LOOK_EVERY_S = 0.25
PATIENCE_S = 180.0
"""For the worker to begin: the first one on a machine compiles its kernels."""
KNOWN = "Star Wars (1977)"


def demo(
    folder: Annotated[
        Path,
        typer.Option(
            "--dir", metavar="D", file_okay=False, help="Folder of data and logs; what is in it from before is replaced."
        ),
    ] = Path(".run"),
    rate: Annotated[float, typer.Option("--rate", metavar="N", min=1, help="Ratings a second.")] = RATE,
    stay: Annotated[bool, typer.Option("--stay", help="Stay up at the end, to look around, until Ctrl-C.")] = False,
) -> None:
    """Watch a worker learn MovieLens-100K from a real Kafka into a real Redis; no process stays behind."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print("[bold]Factorstream[/], live: Kafka → worker → Redis, all real. Ctrl-C ends it.")
    interrupts = Interrupts()
    with _alone(folder), _cleaned_up(folder, interrupts, console):
        _play(folder, rate, stay, interrupts, console)
    console.print(f"[dim]Kafka, Redis and the worker are stopped; their data and logs are in {folder}/, until the next run.[/]")


@dataclass(frozen=True, slots=True)
class Material:
    """What is replayed."""

    file: Path
    history: History
    titles: dict[str, str]
    """By item id."""
    name: str

    def title(self, item_id: str) -> str:
        """Return the name of an item."""
        return self.titles.get(item_id, item_id)


class Interrupts:
    """Ctrl-C, SIGTERM and a closed terminal: raised at once, and remembered, for some libraries swallow it while they load."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._came = False
        for number in self.SIGNALS:
            signal.signal(number, self._raise)

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if one came."""
        if self._came:
            raise KeyboardInterrupt

    def end(self) -> None:
        """Ignore them from now on: a second Ctrl-C must not leave half of it running."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _raise(self, number: int, frame: object) -> None:
        self._came = True
        raise KeyboardInterrupt


def _play(folder: Path, rate: float, stay: bool, interrupts: Interrupts, console: Console) -> None:
    from factorstream import Reader
    from factorstream.worker.adapters import kafka_topics
    from factorstream.worker.local import services
    from factorstream.worker.local.children import Child
    from factorstream.worker.local.processes import free_port

    with console.status("Getting MovieLens-100K …"):
        material = _material(folder, console)
    interrupts.check()
    with console.status("Starting Apache Kafka and Redis …"):
        up = services.start(folder / "services")
        assert up.kafka is not None  # start has returned: both answer
        assert up.redis is not None
        kafka_topics.create(up.kafka, TOPIC, 4)
    console.print(f"Apache Kafka on {up.kafka}, Redis on {up.redis}")
    with console.status("Starting the worker (the first one on a machine compiles its kernels, up to two minutes) …"):
        url = f"http://127.0.0.1:{free_port()}"
        worker = Child(folder / "worker", "run", *_settings(up, url))
        _await_worker(worker, url, interrupts)
    console.print(f"the worker on {url}/metrics")
    sender = Child(
        folder / "replay", "replay", str(material.file.resolve()), "--topic", TOPIC, "--kafka", up.kafka, "--rate", str(rate)
    )
    view = _watch(worker, sender, url, material, rate, interrupts, console)
    with Reader(up.redis, MODEL) as reader:
        _tell(reader, material, view, console)
        if stay:
            _stay(up, url, console)
    worker.settle()


def _settings(up: Services, url: str) -> list[str]:
    settings = {
        "kafka.bootstrap_servers": up.kafka,
        "kafka.topic": TOPIC,
        "redis.url": up.redis,
        "model.name": MODEL,
        "checkpoint.dir": "checkpoints",
        "checkpoint.interval_s": 5,
        "metrics.port": url.rpartition(":")[2],
    }
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def _material(folder: Path, console: Console) -> Material:
    from factorstream.worker.history import read
    from factorstream.worker.local import generated, movielens

    try:
        data = movielens.fetch(DATA)
    except DataUnavailable as error:
        console.print(f"[yellow]MovieLens-100K cannot be had, a generated stream takes its place:[/] {error}")
        file = folder / "generated.csv"
        generated.ratings(100_000, 943, 1682).write_csv(file)
        return Material(file, read(file), {}, "generated ratings")
    return Material(data.ratings, read(data.ratings), data.titles, "MovieLens-100K")


def _await_worker(worker: Child, url: str, interrupts: Interrupts) -> None:
    from factorstream.worker.local.scrape import scrape

    until = time.monotonic() + PATIENCE_S
    while scrape(url) is None:
        interrupts.check()
        if not worker.running() or time.monotonic() > until:
            raise ServiceFailed(f"the worker did not begin within {PATIENCE_S:.0f} s; see {worker.log}")
        time.sleep(LOOK_EVERY_S)


def _watch(
    worker: Child, sender: Child, url: str, material: Material, rate: float, interrupts: Interrupts, console: Console
) -> View:
    """Show progress until everything sent is learned and readable."""
    from factorstream.worker.cli.demo_view import View
    from factorstream.worker.local.scrape import scrape

    history = material.history
    people = f"{len(history.user_names):,} people · {len(history.item_names):,} films"
    view = View(console, f"{material.name} · {people} · by time, {rate:,.0f} a second", len(history))
    began = time.monotonic()
    with view.live():
        while True:
            interrupts.check()
            sending = sender.running()
            facts = scrape(url)
            if facts is not None:
                done = not sending and facts.n_records >= len(history) and not facts.n_pending
                view.show(time.monotonic() - began, facts, last=done)
                if done:
                    return view
            if not worker.running():
                raise ServiceFailed(f"the worker ended before everything was learned; see {worker.log}")
            time.sleep(LOOK_EVERY_S)


def _tell(reader: Reader, material: Material, view: View, console: Console) -> None:
    """Read from Redis what the model says, and show it."""
    from factorstream.worker.cli.demo_view import milliseconds, ranking, side_by_side

    history = material.history
    user_id = history.user_names[int(history.user_codes[-1])]
    known = next((item for item, title in material.titles.items() if title == KNOWN), history.item_names[0])
    rated = history.user_codes == history.user_codes[-1]
    loved = [
        history.item_names[code] for code in history.item_codes[rated][history.ratings[rated].argsort(kind="stable")[::-1][:3]]
    ]
    top = [(material.title(item), f"{score:.2f}") for item, score in reader.top_n(user_id, 10)]
    alike = [(material.title(item), f"{cosine:.2f}") for item, cosine in reader.similar_items(known, 10)]
    note = f"rated {rated.sum()} films, {material.title(loved[0])} highest; these are left out"
    width = min(48, console.width // 2 - 2)
    console.print()
    console.print(
        side_by_side(
            ranking(f"What user {user_id} would like", note, top, "predicted", width),
            ranking(f"Like {material.title(known)}", "by the angle between embeddings", alike, "cosine", width),
        )
    )
    meta = reader.meta()
    assert view.last is not None
    seconds, facts = view.last
    rmse = (
        ""
        if facts.rmse is None
        else f"live RMSE {facts.rmse:.4f} over the last 10,000 ratings, each predicted before it was learned; "
    )
    console.print(
        f"\n[bold]{facts.n_accepted:,} ratings[/] in {seconds:.0f} s: {rmse}{facts.n_sweeps} exact sweeps; "
        f"event → Redis p50 {milliseconds(facts.fresh_within(0.5))}, p99 {milliseconds(facts.fresh_within(0.99))}; "
        f"{meta.n_users + meta.n_items:,} embeddings of rank {meta.rank}, version {shown_version((meta.epoch, meta.position))}."
    )


def _stay(up: Services, url: str, console: Console) -> None:
    console.print(
        f"\nEverything stays up until Ctrl-C. Look around:\n"
        f"  factorstream top 1 --redis {up.redis} --model {MODEL}\n"
        f"  factorstream similar 50 --redis {up.redis} --model {MODEL}\n"
        f"  curl {url}/metrics\n"
    )
    while True:
        time.sleep(3600)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one demonstration at a time use *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserMistake(f"a demonstration runs in {folder} already; give this one another folder: --dir") from error
        yield


@contextmanager
def _cleaned_up(folder: Path, interrupts: Interrupts, console: Console) -> Iterator[None]:
    """Begin with nothing, and end with nothing running, however it ends."""
    try:
        stop_all(folder)
        for name in PARTS:
            shutil.rmtree(folder / name, ignore_errors=True)
        yield
    finally:
        interrupts.end()
        with console.status("Stopping everything …"):
            stop_all(folder)


PARTS = ("services", "worker", "replay")


def stop_all(folder: Path) -> None:
    """End every process of the demonstration in *folder*, also what a crash left behind."""
    from factorstream.worker.local import children, services

    children.stop(folder / "replay")
    children.stop(folder / "worker")
    services.stop(folder / "services")
