"""The only module that knows every class: settings in, a worker ready to turn out."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from factorstream.worker import kernels
from factorstream.worker.adapters.files import FileCheckpoints
from factorstream.worker.adapters.group import Solo
from factorstream.worker.adapters.kafka_dead_letters import KafkaDeadLetters
from factorstream.worker.adapters.kafka_source import KafkaSource
from factorstream.worker.adapters.prometheus import Metrics, Server
from factorstream.worker.adapters.redis import RedisPublisher
from factorstream.worker.config import Settings
from factorstream.worker.errors import UserMistake
from factorstream.worker.intake import Intake
from factorstream.worker.kernels import devices
from factorstream.worker.kernels.api import Kernels
from factorstream.worker.learn import uncertainty
from factorstream.worker.learn.learner import Learner, new_model
from factorstream.worker.learn.settings import Learning
from factorstream.worker.loop import HEARTBEAT_S, Parts
from factorstream.worker.model.journal import Events, Kind, base_of, ratings_of
from factorstream.worker.model.model import Model
from factorstream.worker.publishing import Drafter
from factorstream.worker.startup import start
from factorstream.worker.state import State
from factorstream.worker.timing import Every


@dataclass(frozen=True, slots=True)
class Wired:
    """A worker, connected and caught up with its checkpoint."""

    state: State
    parts: Parts

    def close(self) -> None:
        """Give back connections and the lock."""
        self.parts.source.close()
        self.parts.dead_letters.close()
        self.parts.publisher.close()
        self.parts.checkpoints.close()


def wire(settings: Settings) -> Wired:
    """Connect everything, restore, take the fence. Raises errors with a message for a person."""
    learner = learner_of(settings)
    warm_up(learner, settings)
    state = fresh_state(settings)
    source = KafkaSource(
        settings.kafka.bootstrap_servers,
        settings.kafka.topic,
        group=Solo(),
        group_id=settings.kafka.group_id,
        max_records=settings.kafka.max_poll_records,
        timeout_s=settings.kafka.timeout_s,
        on_lost_offsets=settings.kafka.on_lost_offsets,
        security=security_of(settings),
    )
    publisher = RedisPublisher(
        settings.redis.url,
        settings.model.name,
        n_buckets=settings.redis.n_buckets,
        uncertainty=settings.publish.uncertainty,
        replace=settings.redis.replace,
    )
    checkpoints = FileCheckpoints(
        Path(settings.checkpoint.dir), keep=settings.checkpoint.keep, keep_journal=settings.journal.keep == "all"
    )
    snapshot = start(
        state,
        source=source,
        publisher=publisher,
        checkpoints=checkpoints,
        patience_s=settings.redis.timeout_s,
        seen_items=settings.publish.seen_items,
        platform=kernels.platform(settings.model.device),
        wall_ms=wall_ms,
    )
    dead_letters = KafkaDeadLetters(
        settings.kafka.bootstrap_servers,
        settings.kafka.dead_letter_topic,
        settings.kafka.topic,
        timeout_s=settings.kafka.timeout_s,
        security=security_of(settings),
    )
    clock = time.monotonic
    return Wired(
        state,
        Parts(
            source=source,
            intake=Intake(
                rating_min=settings.model.range[0],
                rating_max=settings.model.range[1],
                rating_step=settings.model.category_step,
                max_reject_share=settings.intake.max_reject_share,
            ),
            learner=learner,
            drafter=Drafter(
                learner.rule.readout,
                uncertainty if settings.publish.uncertainty else None,
                seen_items=settings.publish.seen_items,
                block_bytes_per_s=settings.publish.block_bytes_per_s,
                loss=settings.model.loss,
                clock=clock,
            ),
            publisher=publisher,
            checkpoints=checkpoints,
            dead_letters=dead_letters,
            snapshot=snapshot,
            publish_every=Every(settings.publish.interval_ms / 1000, clock),
            heartbeat_every=Every(HEARTBEAT_S, clock),
            checkpoint_every=Every(settings.checkpoint.interval_s, clock),
            sweep_when_idle=settings.sweep.when_idle and settings.sweep.visits_per_rating > 0,
            clock=clock,
        ),
    )


def serve_metrics(settings: Settings) -> tuple[Metrics, Server]:
    """Answer on the metrics port from now on. Raises `MetricsUnavailable`."""
    metrics = Metrics(
        info={
            "version": version("factorstream"),
            "model": settings.model.name,
            "rank": str(settings.model.rank),
            "loss": settings.model.loss,
            "learner": settings.model.learner,
        }
    )
    return metrics, metrics.serve(settings.metrics.host, settings.metrics.port)


def security_of(settings: Settings) -> dict[str, object]:
    """Return how to speak to the brokers, in kafka-python's names."""
    kafka = settings.kafka
    named = {
        "security_protocol": kafka.security_protocol,
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": kafka.sasl_password.get_secret_value() if kafka.sasl_password else None,
        "ssl_cafile": str(kafka.ssl_cafile) if kafka.ssl_cafile else None,
    }
    return {name: value for name, value in named.items() if value is not None}


def learning_of(settings: Settings) -> Learning:
    """Return what the learner is told."""
    return Learning(
        learning_rate=settings.sgd.learning_rate,
        bias_learning_rate=settings.sgd.bias_learning_rate,
        decay=settings.sgd.decay,
        fold_in=settings.sgd.fold_in,
        lambda_user=settings.als.lambda_user,
        lambda_item=settings.als.lambda_item,
        lambda_bias=settings.als.lambda_bias,
        weighted=settings.als.weighted,
        visits_per_rating=settings.sweep.visits_per_rating,
        block_visits=settings.sweep.block_visits,
        loss=settings.model.loss,
        alpha=settings.implicit.alpha,
        solver=settings.als.solver,
        learner=settings.model.learner,
        calibrate=settings.model.calibrate and settings.model.loss == "squared" and not settings.model.nonnegative,
        learn_priors=settings.model.learn_priors,
        rating_step=settings.model.category_step or 1.0,
        nonnegative=settings.model.nonnegative,
        l1_user=settings.als.l1_user,
        l1_item=settings.als.l1_item,
        optimizer=settings.sgd.optimizer,
        beta1=settings.sgd.beta1,
        beta2=settings.sgd.beta2,
        schedule=settings.sgd.schedule,
        power=settings.sgd.power,
    )


def learner_of(settings: Settings) -> Learner:
    """Return the learner that is asked for, on its device."""
    return Learner(kernels_of(settings), learning_of(settings))


def kernels_of(settings: Settings) -> Kernels:
    """Return the kernels for the device that is asked for."""
    if settings.model.device == "cuda":
        _refuse_what_a_gpu_cannot(settings)
    try:
        return kernels.select(settings.model.device)
    except kernels.DeviceMissing as error:
        raise UserMistake(str(error)) from error


def _refuse_what_a_gpu_cannot(settings: Settings) -> None:
    """Raise `UserMistake` where the GPU's kernels do not know the settings."""
    learning = learning_of(settings)
    reason = devices.too_wide(settings.model.rank)
    if learning.learner == "sgd" and learning.loss != "implicit":
        reason = reason or devices.too_long(learning.fold_in)
    if reason:
        raise UserMistake(f"model.device is 'cuda', but {reason}: choose 'auto' or 'cpu'")


def fresh_model(settings: Settings) -> Model:
    """Return a model that has learned nothing."""
    return new_model(learning_of(settings), settings.model.rank, settings.model.seed, settings.model.range)


def fresh_state(settings: Settings) -> State:
    """Return a state at the beginning of a history of its own."""
    shape = {
        "name": settings.model.name,
        "loss": settings.model.loss,
        "learner": settings.model.learner,
        "seed": settings.model.seed,
    }
    return State(
        fresh_model(settings), learning_of(settings), journal_id=secrets.token_hex(16), key=secrets.token_bytes(32), shape=shape
    )


def warm_up(learner: Learner, settings: Settings) -> None:
    """Compile, or load, every kernel that a worker ever needs, on a model that is thrown away.

    In the loop the first forgetting would stop it for that long, in the writing thread the first folding of the journal would.
    """
    step = learner.learning.rating_step
    model = new_model(learner.learning, settings.model.rank, settings.model.seed, (0.0, step))
    n = 64
    forgotten = [Kind.FORGET_USER, Kind.REMOVE_ITEM]
    events = Events(
        np.append(np.repeat(np.array([Kind.RATE, Kind.UNRATE], np.uint8), n), np.array(forgotten, np.uint8)),
        np.append(np.tile(np.arange(n, dtype=np.int32) % 3, 2), np.array([0, -1], np.int32)),
        np.append(np.tile(np.arange(n, dtype=np.int32), 2), np.array([-1, 1], np.int32)),
        np.append(np.repeat(np.array([step, np.nan], np.float32), n), np.full(2, np.nan, np.float32)),
        np.arange(2 * n + 2, dtype=np.int64),
    )
    for _ in learner.learn(model, events):
        pass
    learner.solve_idle_block(model)
    model.ratings.newest_items(np.zeros(1, np.int32), 1)
    model.ratings.user_is_empty(0)
    ratings_of(base_of(model.ratings), [], model.users.n, model.items.n)


def wall_ms() -> int:
    """Return the time of day, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
