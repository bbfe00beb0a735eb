"""Settings: where they come from, and what is said about wrong ones."""

import tomllib

import pytest

from factorstream.worker.config import keys, load, reference
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
    assert (chosen.model.rank, chosen.sweep.visits_per_rating) == (8, 16)
    assert load(None, ["model.learner=posterior", "model.rank=5"], {}).model.rank == 5
    with pytest.raises(UserMistake, match="rank = 65 is too much for the learner posterior"):
        load(None, ["model.learner=posterior", "model.rank=65"], {})
    with pytest.raises(UserMistake, match="runs on the processor"):
        load(None, ["model.learner=posterior", "model.device=cuda"], {})


def test_a_range_that_is_none_is_refused():
    with pytest.raises(UserMistake, match="must be below"):
        load(None, ["model.rating_min=5", "model.rating_max=1"], {})


def test_the_reference_has_every_setting_explained_and_loads_to_the_defaults(tmp_path):
    file = tmp_path / "reference.toml"
    file.write_text(reference())
    assert load(file, [], {}) == load(None, [], {})
    assert all(keys().values()), "every setting says what it means"
    content = tomllib.loads(reference().replace("# learning_rate", "learning_rate"))
    assert "learning_rate" in content["sgd"]


def test_settings_that_make_no_sense_together_are_refused_with_the_reason():
    with pytest.raises(
        UserMistake, match=r"^model\.rating_min = -1\.0 does not go with model\.loss = 'implicit': strengths .* at least 0"
    ):
        load(None, ["model.loss=implicit", "model.rating_min=-1"], {})
