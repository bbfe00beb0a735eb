"""Settings: where they come from, and what is said about wrong ones."""

import tomllib

import pytest

from factorstream.worker.config import Redis, keys, load, masked, reference, toml
from factorstream.worker.errors import UserMistake


def test_the_stronger_source_wins(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text('[kafka]\ntopic = "file"\ngroup_id = "file"\n[model]\nrank = 4\n')
    environment = {"FACTORSTREAM__KAFKA__TOPIC": "environment", "FACTORSTREAM__MODEL__RANK": "5", "OTHER": "x"}
    settings = load(file, ["model.rank=6"], environment)
    assert (settings.kafka.group_id, settings.kafka.topic, settings.model.rank) == ("file", "environment", 6)


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("kafka.topics=x", "did you mean 'kafka.topic'"),
        ("rank=3", "did you mean 'model.rank'"),
        ("model.rank", "section.key=value"),
        ("model.rank=many", "model.rank = 'many'"),
        ("model.rank=0", "greater than or equal to 1"),
        ("model.name=a b", "model.name = 'a b'"),
        ("als.lambda_user=-1", "als.lambda_user = '-1'"),
        ("implicit.alpha=0", "greater than 0"),
        ("model.rating_max=1e40", "less than or equal to 1000000000000"),
        ("model.rating_min=nan", "model.rating_min = 'nan'"),
        ("kafka.timeout_s=inf", "kafka.timeout_s = 'inf': input should be a finite number"),
        ("model.device=gpu", "'auto', 'cpu' or 'cuda'"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(assignment, told):
    with pytest.raises(UserMistake) as caught:
        load(None, [assignment], {})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_key_is_named_with_its_source(tmp_path):
    with pytest.raises(UserMistake, match=r"environment FACTORSTREAM__REDIS__URI: .* did you mean 'redis\.url'"):
        load(None, [], {"FACTORSTREAM__REDIS__URI": "x"})
    file = tmp_path / "f.toml"
    file.write_text("topic = 1")
    with pytest.raises(UserMistake, match="outside any section"):
        load(file, [], {})
    file.write_text("[kafka")
    with pytest.raises(UserMistake, match="cannot be read"):
        load(file, [], {})
    with pytest.raises(UserMistake, match="no such file"):
        load(tmp_path / "none.toml", [], {})


def test_the_posterior_learner_has_defaults_of_its_own_and_says_what_it_cannot():
    chosen = load(None, ["model.learner=posterior"], {})
    assert (chosen.model.rank, chosen.sweep.visits_per_rating) == (8, 24)
    assert load(None, ["model.learner=posterior", "model.rank=5"], {}).model.rank == 5
    with pytest.raises(UserMistake, match="rank = 65 is too much for the learner posterior"):
        load(None, ["model.learner=posterior", "model.rank=65"], {})
    assert load(None, ["model.learner=posterior", "model.device=cuda"], {}).model.device == "cuda"


def test_a_range_that_is_none_is_refused():
    with pytest.raises(UserMistake, match="must be below"):
        load(None, ["model.rating_min=5", "model.rating_max=1"], {})


def test_a_password_is_neither_shown_nor_replaced_by_asterisks(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text(toml(load(None, ["kafka.sasl_password=secret", "kafka.security_protocol=SASL_SSL"], {}), documented=False))
    assert "secret" not in file.read_text()
    assert load(file, [], {}).kafka.sasl_password is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@cache:6379/0", "redis://:**********@cache:6379/0"),
        ("rediss://worker:s/e@c:r?et@cache", "rediss://worker:**********@cache"),
        ("redis://cache/0?username=worker&password=secret&db=1", "redis://cache/0?username=worker&password=**********&db=1"),
        ("redis://worker@cache:6379/0", "redis://worker@cache:6379/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_the_password_in_an_address_is_not_shown(url, shown, tmp_path):
    settings = load(None, [f"redis.url={url}"], {})
    assert masked(url) == shown
    assert settings.redis.url == url
    assert settings.model_dump(mode="json")["redis"]["url"] == shown
    file = tmp_path / "f.toml"
    file.write_text(toml(settings, documented=False))
    assert load(file, [], {}).redis.url == (url if shown == url else Redis().url)


def test_the_reference_has_every_setting_explained_and_loads_to_the_defaults(tmp_path):
    file = tmp_path / "reference.toml"
    file.write_text(reference())
    assert load(file, [], {}) == load(None, [], {})
    assert all(keys().values()), "every setting says what it means"
    content = tomllib.loads(reference().replace("# learning_rate", "learning_rate"))
    assert "learning_rate" in content["sgd"]


STARS = ["model.rating_min=1", "model.rating_max=5"]


@pytest.mark.parametrize(
    ("assignments", "told"),
    [
        (["model.loss=implicit", "model.rating_min=-1"], "strengths of clicks cannot mean negative ratings"),
        (["model.loss=implicit", "als.l1_user=1"], "als.l1_user or als.l1_item does not go with model.loss = 'implicit'"),
        (["model.loss=implicit", "sgd.optimizer=adam"], "sgd.optimizer does not go with"),
        (["model.loss=implicit", "sgd.learning_rate=0.1"], "its rows are solved"),
        (["model.loss=implicit", "als.lambda_bias=0"], "it has no biases"),
        (["model.learner=posterior", "sgd.bias_learning_rate=0.1"], "its rows are solved"),
        (["model.learner=posterior", "als.lambda_item=0"], "its priors follow from the ratings"),
        (["model.learner=posterior", "als.weighted=true"], "its priors follow from the ratings"),
        (["model.learner=posterior", "als.l1_item=1"], "does not go with model.learner = 'posterior': its rows are Gaussian"),
        (["publish.uncertainty=true"], "publish.uncertainty = true does not go with model.learner = 'sgd': its rows are points"),
        (["model.learner=posterior", "model.loss=poisson"], "needs loss = squared"),
        (["model.loss=poisson", "model.rating_min=-1"], "counts cannot mean negative ratings"),
        (["model.nonnegative=true", "model.rating_min=-1"], "nonnegative factors cannot mean negative ratings"),
        (["model.nonnegative=true", "model.loss=logistic"], "yes is always likelier than no"),
        (["model.nonnegative=true", "model.loss=ordinal", *STARS], "upper half"),
        (["model.loss=logistic", *STARS], "leave rating_min = 1 and rating_max = 5 away"),
        (["model.loss=ordinal"], "needs rating_min and rating_max"),
        (["model.loss=ordinal", *STARS, "model.rating_step=0.3"], "a whole number"),
        (["model.rating_step=1"], "rating_step is for loss = ordinal"),
        (["sgd.power=2", "sgd.schedule=inverse"], "less than or equal to 1"),
        (["sgd.beta1=0.5"], "sgd.beta1 = 0.5 would change nothing: sgd.optimizer is 'sgd', and only momentum and adam have it"),
        (["sgd.beta1=0.5", "sgd.optimizer=rmsprop"], "only momentum and adam"),
        (["sgd.beta2=0.5", "sgd.optimizer=momentum"], "sgd.optimizer is 'momentum', and only rmsprop and adam have it"),
        (["sgd.decay=0.1", "sgd.schedule=constant"], "sgd.schedule is 'constant', and only count has it"),
        (["sgd.power=0.5"], "sgd.schedule is 'count', and only inverse has it"),
        (["implicit.alpha=2"], "model.loss is 'squared', and only implicit weighs clicks"),
        (["model.loss=implicit", "sgd.schedule=constant"], "no steps are taken"),
        (["model.learner=posterior", "sgd.fold_in=3"], "with model.learner = 'posterior' rows are solved"),
        (["model.learner=posterior", "als.solver=cg"], "solved with their variances"),
        (["model.loss=poisson", "als.solver=exact"], 'als.solver = "exact" would change nothing: only the squared loss'),
        (["als.l1_user=0.1", "als.solver=exact"], "have a choice of solvers"),
        (["model.nonnegative=true", "als.lambda_bias=1"], "there are no biases"),
        (["model.nonnegative=true", "sgd.bias_learning_rate=1"], "there are no biases"),
        (["kafka.sasl_username=worker"], "nobody logs in"),
        (["kafka.sasl_password=secret"], 'kafka.sasl_password = "**********" would change nothing'),
        (["kafka.ssl_cafile=ca.pem", "kafka.security_protocol=SASL_PLAINTEXT"], "nothing is encrypted"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused_with_the_reason(assignments, told):
    with pytest.raises(UserMistake) as caught:
        load(None, assignments, {})
    assert told in str(caught.value)


@pytest.mark.parametrize("change", [[], ["sgd.optimizer=adam"], ["model.loss=poisson"], ["model.learner=posterior"]])
def test_the_defaults_of_what_nothing_reads_are_not_refused(change, tmp_path):
    """A file of all settings, as 'factorstream config' writes it, can be loaded."""
    settings = load(None, change, {})
    file = tmp_path / "all.toml"
    file.write_text(toml(settings, documented=False))
    assert load(file, [], {}) == settings


@pytest.mark.parametrize(
    ("assignments", "range_", "step"),
    [
        ([], (None, None), None),
        (["model.loss=poisson"], (0.0, None), None),
        (["model.loss=implicit"], (0.0, None), None),
        (["model.nonnegative=true", "model.rating_min=1"], (1.0, None), None),
        (["model.loss=logistic", "model.rating_min=0", "model.rating_max=1"], (0.0, 1.0), 1.0),
        (["model.loss=ordinal", *STARS], (1.0, 5.0), 1.0),
        (["model.loss=ordinal", *STARS, "model.rating_step=0.5"], (1.0, 5.0), 0.5),
    ],
)
def test_a_loss_says_which_ratings_there_are(assignments, range_, step):
    settings = load(None, assignments, {})
    assert (settings.model.range, settings.model.category_step) == (range_, step)
