"""Settings: typed, documented, checked once. Only `wiring` sees them; all else gets plain arguments.

Sources, strongest first: ``--set section.key=value``, the environment (``FACTORSTREAM__KAFKA__TOPIC``), a TOML file, defaults.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer, model_validator

from factorstream.rating import is_category
from factorstream.worker.errors import UserMistake

PREFIX = "FACTORSTREAM__"
ASTERISKS = "**********"
"""Where a password is not shown."""
MOST_FACTORS_OF_POSTERIOR = 64
FARTHEST_RATING = 1e12
"""From 0. Ratings are held as float32, and sums of their squares must stay finite."""
DEFAULTS_OF_POSTERIOR: dict[str, dict[str, Any]] = {"model": {"rank": 8}, "sweep": {"visits_per_rating": 24.0}}
"""What the learner posterior takes where nothing else is set."""


class Section(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Kafka(Section):
    """Where rating events come from."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """Brokers to begin with: host:port, several separated by commas."""
    topic: str = "ratings"
    """The topic with the events; it must exist and must not be compacted."""
    dead_letter_topic: str = "ratings.dead"
    """Where unreadable records go; made when it is missing."""
    group_id: str = "factorstream"
    """Under which offsets are committed, for lag tools only: the worker resumes from its checkpoint."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to speak to the brokers."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """How to log in, for the SASL protocols."""
    sasl_username: str | None = None
    """Who logs in."""
    sasl_password: SecretStr | None = None
    """Their password; best given through the environment."""
    ssl_cafile: Path | None = None
    """Certificates to trust, for the SSL protocols; unset: the system's."""
    on_lost_offsets: Literal["error", "earliest"] = "error"
    """What to do when the broker no longer has the offsets to resume from: stop and say so, or go on with the earliest it has."""
    max_poll_records: int = Field(5_000, ge=1)
    """Records of one turn, at most."""
    timeout_s: float = Field(30.0, gt=0)
    """How long to wait for a broker: at the start, and while running before giving up."""

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        if self.topic == self.dead_letter_topic:
            raise ValueError(
                f"dead_letter_topic must be another topic than {self.topic!r}, or unreadable records would come back for ever"
            )
        return self


class Redis(Section):
    """Where embeddings go."""

    url: str = "redis://127.0.0.1:6379/0"
    """The server; with a password: redis://:PASSWORD@HOST:PORT/DB."""
    replace: bool = False
    """Replace a model of this name that was learned from another journal, instead of refusing."""
    n_buckets: int = Field(1, ge=1, le=16_384)
    """Into how many hash slots a cluster spreads the model."""
    timeout_s: float = Field(30.0, gt=0)
    """How long to wait for Redis at the start; while running, learning goes on without it."""

    @field_serializer("url", when_used="json")
    def _masked(self, url: str) -> str:
        return masked(url)


class Model(Section):
    """What is learned."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "default"
    """The model's name in Redis."""
    rank: int = Field(16, ge=1, le=1024)
    """K: factors of a row; where it is not set, the learner posterior takes 8."""
    loss: Literal["squared", "logistic", "poisson", "ordinal", "implicit"] = "squared"
    """What a rating is: a number; logistic: 0 or 1; poisson: a count; ordinal: a category of an ordered
    few, such as stars; implicit: the strength of a click (a running total, at least 0), weighed over all pairs."""
    nonnegative: bool = False
    """Whether factors are never negative: parts of things. Without biases; for squared loss of ratings from 0 on."""
    learner: Literal["sgd", "posterior"] = "sgd"
    """How a rating becomes a better model. sgd: gradient steps, short rows solved exactly, exact sweeps. posterior: each row is a
    Gaussian that a rating narrows; the lowest error, for the squared loss; time grows with K³, memory with K²."""
    calibrate: bool = True
    """Whether scores are corrected by the user's session, the item's last hours, and how many ratings both have; with
    squared loss alone, and not without biases (nonnegative)."""
    learn_priors: bool = True
    """Whether λ that are unset follow what fits the ratings, and rows are expected near what those that they met say; with
    squared loss, plain λ and plain steps alone."""
    rating_min: float | None = Field(None, ge=-FARTHEST_RATING, le=FARTHEST_RATING)
    """Smallest rating accepted; unset: -1000."""
    rating_max: float | None = Field(None, ge=-FARTHEST_RATING, le=FARTHEST_RATING)
    """Largest rating accepted; unset: 1000."""
    rating_step: float | None = Field(None, gt=0)
    """Ordinal: the distance of the categories, which begin at rating_min and end at rating_max; unset: 1."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the first factors."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the kernels run. cuda: an NVIDIA GPU (install factorstream[worker,gpu]), for every loss and both learners, up to 128
    factors and 32 ratings folded in; the calibrator stays on the processor. auto: the processor, as no GPU was measured yet."""

    @model_validator(mode="after")
    def _learner_can(self) -> Self:
        if self.learner == "posterior":
            if self.loss != "squared":
                raise ValueError(f"the learner posterior needs loss = squared, not {self.loss}: its rows are Gaussian")
            if self.rank > MOST_FACTORS_OF_POSTERIOR:
                raise ValueError(
                    f"rank = {self.rank} is too much for the learner posterior, whose time grows with its cube: at most "
                    f"{MOST_FACTORS_OF_POSTERIOR}, and 8 is enough for most; or choose learner = sgd"
                )
        return self

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if self.rating_min is not None and self.rating_max is not None and self.rating_min >= self.rating_max:
            raise ValueError(f"rating_min = {self.rating_min} must be below rating_max = {self.rating_max}")
        return self

    @model_validator(mode="after")
    def _loss_and_ratings_fit(self) -> Self:
        wrong = _wrong_ratings(self) or (_wrong_categories(self) if self.loss == "ordinal" else None)
        if wrong:
            raise ValueError(wrong)
        return self

    @property
    def range(self) -> tuple[float | None, float | None]:
        """The smallest and largest rating that the loss can learn from, where it or a setting limits them."""
        if self.loss == "logistic":
            return 0.0, 1.0
        from_zero = self.loss in ("poisson", "implicit") or self.nonnegative
        return (0.0 if from_zero and self.rating_min is None else self.rating_min), self.rating_max

    @property
    def category_step(self) -> float | None:
        """The distance of categories, where ratings are categories."""
        return (self.rating_step or 1.0) if self.loss in ("logistic", "ordinal") else None


MOST_CATEGORIES = 100


def _wrong_ratings(model: Model) -> str | None:
    """Return why the loss, the constraint and the ratings make no sense together."""
    limits = [
        f"{name} = {bound:g}" for name, bound in (("rating_min", model.rating_min), ("rating_max", model.rating_max)) if bound
    ]
    if model.nonnegative and model.loss != "squared":
        why = {
            "logistic": "yes is always likelier than no",
            "poisson": "every count is at least 1",
            "ordinal": "every rating is in the upper half of the categories",
            "implicit": "its rows are solved by linear equations, which know no limits",
        }
        return f"nonnegative needs loss = squared: with {model.loss} loss and scores that are never negative {why[model.loss]}"
    if model.loss == "logistic" and model.range != (
        model.rating_min or 0.0,
        1.0 if model.rating_max is None else model.rating_max,
    ):
        return f"loss = logistic is for ratings of 0 and 1; leave {' and '.join(limits)} away"
    if model.range[0] is not None and model.range[0] < 0 and (model.loss in ("poisson", "implicit") or model.nonnegative):
        what = "nonnegative factors" if model.nonnegative else "counts" if model.loss == "poisson" else "strengths of clicks"
        return f"{what} cannot mean negative ratings: rating_min = {model.rating_min:g} must be 0 or more"
    if model.rating_step is not None and model.loss != "ordinal":
        return f"rating_step is for loss = ordinal; {model.loss} loss has no categories to be at a distance"
    return None


def _wrong_categories(model: Model) -> str | None:
    """Return why there are no categories for the ordinal loss."""
    if model.rating_min is None or model.rating_max is None:
        return "loss = ordinal needs rating_min and rating_max, the lowest and the highest category (stars: 1 and 5)"
    steps = (model.rating_max - model.rating_min) / (model.rating_step or 1.0)
    if not (is_category(steps) and 1 <= round(steps) < MOST_CATEGORIES):
        return (
            f"from rating_min = {model.rating_min:g} to rating_max = {model.rating_max:g} are {steps:g} "
            f"steps of rating_step = {model.rating_step or 1.0:g}: it must be a whole number from 1 to {MOST_CATEGORIES - 1}"
        )
    return None


class Sgd(Section):
    """How a single rating moves the factors."""

    optimizer: Literal["sgd", "momentum", "adagrad", "rmsprop", "adam"] = "sgd"
    """How a gradient becomes a step; all but sgd remember one or two numbers for each factor, of the rows that step alone."""
    learning_rate: float | None = Field(None, gt=0)
    """Step size η of the factors; unset: for sgd 0.1 divided by the standard deviation of the ratings."""
    bias_learning_rate: float | None = Field(None, gt=0)
    """Step size of the biases; unset: 0.05 for sgd and squared loss."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Momentum's μ, Adam's β₁."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """RMSprop's α, Adam's β₂."""
    schedule: Literal["constant", "count", "inverse"] = "count"
    """How η falls with a row's number n of ratings: not at all, as 1 / (1 + decay · n), or as 1 / n^power."""
    decay: float = Field(0.002, ge=0)
    """Of schedule count."""
    power: float = Field(0.25, gt=0, le=1)
    """Of schedule inverse."""
    fold_in: int = Field(16, ge=0, le=256)
    """A row with at most so many ratings is solved exactly at each of them, instead of stepped."""


class Implicit(Section):
    """Clicks, for model.loss = "implicit"."""

    alpha: float = Field(4.0, gt=0, le=1e6)
    """A pair of strength r counts 1 + alpha · r times as much as one without a click."""


class Als(Section):
    """Regularisation of the objective, which SGD and sweeps share."""

    lambda_user: float | None = Field(None, ge=0)
    """λ of the users' factors; unset: 8 times the standard deviation of the ratings, 0.5 times it when nonnegative; loss
    implicit: 0.4 (1 + alpha) √(most clicks of an item)."""
    lambda_item: float | None = Field(None, ge=0)
    """λ of the items' factors; unset: likewise."""
    lambda_bias: float | None = Field(None, ge=0)
    """λ of the biases; unset: 2.5, or 0.03 when weighted."""
    l1_user: float = Field(0.0, ge=0)
    """κ of Σ κ |factor| over the users' factors: makes some exactly zero, from about 0.1 on; with λ an elastic net."""
    l1_item: float = Field(0.0, ge=0)
    """κ of the items' factors."""
    weighted: bool = False
    """Whether each λ and κ counts once for each of the row's ratings (ALS-WR); loss implicit: for each unit of its confidence
    over all pairs."""
    solver: Literal["auto", "exact", "cg"] = "auto"
    """How rows are solved: exactly, by conjugate gradients (cheaper at high ranks, the same optimum), or as suits the rank."""


class Sweep(Section):
    """Exact solves between the steps."""

    visits_per_rating: float = Field(12.0, ge=0)
    """Ratings visited by sweeps for each rating accepted, each row solved counting as two more; 0: no sweeps. Where it is not
    set, the learner posterior takes 24."""
    when_idle: bool = True
    """Whether to go on sweeping while no records come, until a whole sweep gains nothing."""
    block_visits: int = Field(20_000, ge=1)
    """Ratings visited by one block, about, each row counting as two more: what a turn may last."""


class Publish(Section):
    """How fresh Redis is."""

    interval_ms: float = Field(20.0, ge=0)
    """Between publications; longer under lag, so that at most a tenth of the time is spent publishing."""
    seen_items: int = Field(256, ge=0)
    """Newest rated items kept for each user, for readers that leave them out; 0: none."""
    uncertainty: bool = False
    """Whether to write the variances of each row's numbers beside it, for readers that want to know how sure a prediction is;
    model.learner = "posterior" alone knows."""
    block_bytes_per_s: float = Field(8e6, gt=0)
    """Budget for blocks of items, which readers rank all items with."""


class Checkpoint(Section):
    """What survives."""

    dir: Path = Path(".factorstream/checkpoints")
    """The folder; one worker at a time."""
    interval_s: float = Field(30.0, gt=0)
    """Between checkpoints: about how much is learned again after a crash."""
    keep: int = Field(3, ge=1)
    """Newest checkpoints that stay."""


class Metrics(Section):
    """What people watch."""

    host: str = "127.0.0.1"
    """Address that /metrics and /health answer on."""
    port: int = Field(9464, ge=0, le=65535)
    """Its port; 0: any that is free, told in the log."""


class Intake(Section):
    """What is read."""

    max_reject_share: float = Field(0.5, ge=0, le=1)
    """Of the last 10,000 records: with more unreadable ones the worker stops."""


class Journal(Section):
    """The history that the model is a function of."""

    keep: Literal["checkpoints", "all"] = "checkpoints"
    """How far it reaches back: to the oldest kept checkpoint, or for ever."""


class Settings(Section):
    """Everything that can be set."""

    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    model: Model = Model()
    sgd: Sgd = Sgd()
    implicit: Implicit = Implicit()
    als: Als = Als()
    sweep: Sweep = Sweep()
    publish: Publish = Publish()
    checkpoint: Checkpoint = Checkpoint()
    metrics: Metrics = Metrics()
    intake: Intake = Intake()
    journal: Journal = Journal()

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_the_learner(cls, given: Any) -> Any:
        """Return *given* with what the learner takes where nothing else is set."""
        if not isinstance(given, dict) or given.get("model", {}).get("learner") != "posterior":
            return given
        return {**given, **{name: {**values, **given.get(name, {})} for name, values in DEFAULTS_OF_POSTERIOR.items()}}

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        solved, gaussian = "its rows are solved by linear equations", "its rows are Gaussian"
        unsure = "its rows are points, and only learner = 'posterior' knows how sure it is of them"
        lasso = self.als.l1_user or self.als.l1_item
        rates = self.sgd.learning_rate is not None or self.sgd.bias_learning_rate is not None
        lambdas = any(told is not None for told in (self.als.lambda_user, self.als.lambda_item, self.als.lambda_bias))
        for chosen, key, is_set, why in (
            ("loss = 'implicit'", "als.l1_user or als.l1_item", lasso, solved),
            ("loss = 'implicit'", "sgd.optimizer", self.sgd.optimizer != "sgd", solved),
            ("loss = 'implicit'", "sgd.learning_rate or sgd.bias_learning_rate", rates, solved),
            ("loss = 'implicit'", "als.lambda_bias", self.als.lambda_bias is not None, "it has no biases"),
            ("learner = 'posterior'", "sgd.learning_rate or sgd.bias_learning_rate", rates, solved),
            (
                "learner = 'posterior'",
                "als.lambda_user, lambda_item or lambda_bias",
                lambdas,
                "its priors follow from the ratings",
            ),
            ("learner = 'posterior'", "als.weighted = true", self.als.weighted, "its priors follow from the ratings"),
            ("learner = 'posterior'", "model.nonnegative = true", self.model.nonnegative, gaussian),
            ("learner = 'posterior'", "als.l1_user or als.l1_item", lasso, gaussian),
            ("learner = 'posterior'", "sgd.optimizer", self.sgd.optimizer != "sgd", solved),
            ("learner = 'sgd'", "publish.uncertainty = true", self.publish.uncertainty, unsure),
        ):
            if is_set and chosen in (f"loss = {self.model.loss!r}", f"learner = {self.model.learner!r}"):
                raise ValueError(f"{key} does not go with model.{chosen}: {why}; leave it out")
        return self

    @model_validator(mode="after")
    def _nothing_is_in_vain(self) -> Self:
        for key, why in _without_effect(self):
            section, _, name = key.partition(".")
            group = getattr(self, section)
            value = getattr(group, name)
            if value != type(group).model_fields[name].default:  # a file of all settings has every default in it
                raise ValueError(f"{key} = {_toml(value)} would change nothing: {why}; leave it out")
        return self


def _without_effect(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the keys that nothing reads with these *settings*, and why."""
    kafka, model, sgd = settings.kafka, settings.model, settings.sgd
    if model.loss == "implicit" or model.learner == "posterior":
        chosen = f"learner = {model.learner!r}" if model.learner == "posterior" else f"loss = {model.loss!r}"
        for name in ("beta1", "beta2", "schedule", "decay", "power", "fold_in"):
            yield f"sgd.{name}", f"with model.{chosen} rows are solved by linear equations, and no steps are taken"
    if sgd.optimizer not in ("momentum", "adam"):
        yield "sgd.beta1", f"sgd.optimizer is {sgd.optimizer!r}, and only momentum and adam have it"
    if sgd.optimizer not in ("rmsprop", "adam"):
        yield "sgd.beta2", f"sgd.optimizer is {sgd.optimizer!r}, and only rmsprop and adam have it"
    if sgd.schedule != "count":
        yield "sgd.decay", f"sgd.schedule is {sgd.schedule!r}, and only count has it"
    if sgd.schedule != "inverse":
        yield "sgd.power", f"sgd.schedule is {sgd.schedule!r}, and only inverse has it"
    if model.loss != "implicit":
        yield "implicit.alpha", f"model.loss is {model.loss!r}, and only implicit weighs clicks"
    if model.nonnegative:
        for key in ("sgd.bias_learning_rate", "als.lambda_bias"):
            yield key, "with model.nonnegative there are no biases"
    if model.learner == "posterior":
        yield "als.solver", "model.learner is 'posterior', whose rows are solved with their variances"
    elif model.loss not in ("squared", "implicit") or model.nonnegative or settings.als.l1_user or settings.als.l1_item:
        yield "als.solver", "only the squared loss, without κ and constraint, and clicks have a choice of solvers"
    if not kafka.security_protocol.startswith("SASL"):
        for name in ("sasl_mechanism", "sasl_username", "sasl_password"):
            yield f"kafka.{name}", f"kafka.security_protocol is {kafka.security_protocol!r}: nobody logs in"
    if not kafka.security_protocol.endswith("SSL"):
        yield "kafka.ssl_cafile", f"kafka.security_protocol is {kafka.security_protocol!r}: nothing is encrypted"


def load(file: Path | None = None, assignments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of *file*, *environment* (default: the process's) and ``section.key=value`` *assignments*.

    Raises `UserMistake`, naming the nearest known key for one that is unknown.
    """
    merged: dict[str, dict[str, Any]] = {}
    for source, key, value in (
        *_of_file(file),
        *_of_environment(os.environ if environment is None else environment),
        *map(_of_assignment, assignments),
    ):
        section, name = _known(source, key)
        merged.setdefault(section, {})[name] = value
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise UserMistake("; ".join(_told(problem) for problem in error.errors())) from error


def keys() -> dict[str, str]:
    """Return every key, ``section.name``, with its description."""
    return {
        f"{section}.{name}": " ".join((field.description or "").split())
        for section, group in Settings.model_fields.items()
        for name, field in _fields(group.annotation).items()
    }


def reference() -> str:
    """Return a TOML file with every setting, its meaning and its default."""
    return toml(Settings(), documented=True)


def toml(settings: Settings, *, documented: bool) -> str:
    """Return *settings* as a TOML file that `load` reads; unset ones are commented out, and left out unless *documented*.

    What holds a password is commented out, too, without it: it is to be given again.
    """
    lines = ["# Every setting of the Factorstream worker. Unset ones are commented out.", ""] if documented else []
    for section, group in Settings.model_fields.items():
        lines.append(f"[{section}]" + (f"  # {(group.annotation.__doc__ or '').strip()}" if documented else ""))
        for name, field in _fields(group.annotation).items():
            value = getattr(getattr(settings, section), name)
            shown = masked(value) if isinstance(value, str) else value
            if documented:
                lines.append(f"# {' '.join((field.description or '').split())}")
            if documented or value is not None:
                hidden = value is None or isinstance(value, SecretStr) or shown != value  # asterisks shall not become a password
                lines.append(f"{'# ' if hidden else ''}{name} = {_toml(shown)}")
        lines.append("")
    return "\n".join(lines)


def chosen(settings: Settings, sections: Sequence[str]) -> str:
    """Return what was set, by whatever source, in *sections*, as a TOML file that `load` reads; defaults are left out."""
    given = settings.model_dump(exclude_unset=True, include=set(sections))
    parts = [
        [f"[{name}]", *(f"{key} = {_toml(given[name][key])}" for key in given[name]), ""] for name in sections if given.get(name)
    ]
    return "\n".join(line for part in parts for line in part)


def _fields(section: Any) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = section.model_fields
    return fields


def masked(url: str) -> str:
    """Return *url* with asterisks in the place of a password."""
    begin, at, rest = url.rpartition("@")
    scheme, slashes, login = begin.partition("//")
    user, colon, password = login.partition(":")
    shown = f"{scheme}{slashes}{user}{colon}{ASTERISKS}{at}{rest}" if password else url
    return re.sub(r"(?<=[?&]password=)[^&]+", ASTERISKS, shown)


def _toml(value: object) -> str:
    if value is None:
        return '"unset"'
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else json.dumps(str(value))


def _of_file(file: Path | None) -> list[tuple[str, str, object]]:
    if file is None:
        return []
    try:
        content = tomllib.loads(file.read_text())
    except FileNotFoundError as error:
        raise UserMistake(f"--config {file}: no such file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserMistake(f"--config {file} cannot be read: {error}") from error
    found: list[tuple[str, str, object]] = []
    for section, values in content.items():
        if not isinstance(values, dict):
            raise UserMistake(f"{file}: {section!r} is outside any section; write it under one, such as [kafka]")
        found += [(str(file), f"{section}.{name}", value) for name, value in values.items()]
    return found


def _of_environment(environment: Mapping[str, str]) -> list[tuple[str, str, object]]:
    return [
        (f"environment {name}", ".".join(name.removeprefix(PREFIX).lower().split("__")), value)
        for name, value in environment.items()
        if name.startswith(PREFIX)
    ]


def _of_assignment(assignment: str) -> tuple[str, str, object]:
    key, equals, value = assignment.partition("=")
    if not equals:
        raise UserMistake(f"--set {assignment!r}: write it as section.key=value, for example --set model.rank=32")
    return f"--set {assignment}", key.strip(), value.strip()


def _known(source: str, key: str) -> tuple[str, str]:
    known = keys()
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise UserMistake(
            f"{source}: there is no setting {key!r}; did you mean {near[0]!r}? 'factorstream config --reference' lists all"
        )
    section, _, name = key.partition(".")
    return section, name


def _told(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not key:  # of several settings together, which the message names
        return message
    if key not in keys():  # of several settings of a section
        return f"[{key}] {message}"
    meaning = keys().get(key, "")
    return f"{key} = {problem['input']!r}: {message[:1].lower()}{message[1:]}" + (f" ({meaning})" if meaning else "")
