import pandas as pd
import pytest

from pipeline.registry.connection import connect
from pipeline.registry.run_page import describe, description_of

CONFIG = {"network": {"name": "unet"}, "training": {"steps": 7, "profile": "small", "loss": {}}}
METRICS = {
    "cases": 2,
    "dice": {"mean": 0.8, "left": None},
    "nsd": {"mean": 0.6},
    "regions": {"all": ["left", "right"]},
}
MD5 = "0123456789abcdef0123456789abcdef.dir"
CASES = [{"case": f"case_{number}", "key": "k", "split": "train"} for number in range(3)]
KNOWN = {"organ": "liver", "commit": "abc123", "raw": {"md5": MD5}, "cases": CASES}


@pytest.fixture
def client(home):
    return connect(home)


@pytest.fixture
def logged(client):
    """Describes a run, and gives it as MLflow has it then."""
    run = client.create_run(client.create_experiment("liver"))

    def log(curves, known=KNOWN, metrics=METRICS):
        describe(client, run, description_of(CONFIG, metrics, pd.DataFrame(curves), known))
        return client.get_run(run.info.run_id)

    return log


def history(client, run, name):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


def test_the_page_has_parameters_figures_and_what_was_measured_by_step(logged, client):
    run = logged({"step": [3, 7], "loss": [0.9, 0.5], "dice": [float("nan"), 0.8]})
    assert run.data.params == {"network": "unet", "steps": "7", "profile": "small"}
    assert run.data.metrics == {"dice.mean": 0.8, "nsd.mean": 0.6, "learning.loss": 0.5, "learning.dice": 0.8}
    assert history(client, run, "learning.loss") == [(3, 0.9), (7, 0.5)]
    assert history(client, run, "learning.dice") == [(7, 0.8)], "what was not measured is no point"
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"


def test_a_label_that_no_path_could_be_called_has_its_figures(logged):
    labels = {"mean": 0.5, "spleen/": 0.1, "left//right": 0.2, "[/red] kidney": 0.3, "Milz, groß": 0.4}
    run = logged({"step": [1], "loss": [1.0]}, metrics={"dice": labels})
    assert run.data.metrics == {
        "dice.mean": 0.5,
        "dice.spleen_": 0.1,
        "dice.left__right": 0.2,
        "dice._/red_ kidney": 0.3,
        "dice.Milz_ groß": 0.4,
        "learning.loss": 1.0,
    }


def test_the_page_names_the_version_of_the_data_and_not_where_it_lies(logged):
    (data,) = logged({"step": [1], "loss": [1.0], "dice": [0.0]}).inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("data/raw/liver", MD5)
    assert data.dataset.source == f'{{"dvc": "data/raw/liver.dvc", "md5": "{MD5}"}}'
    assert data.dataset.profile == '{"train": 3}'


def test_a_curve_longer_than_mlflow_takes_at_once_is_logged_whole_and_once(logged, client):
    steps = list(range(1, 1301))
    curves = {"step": steps, "loss": [1 / step for step in steps], "dice": 0.5}
    for _ in range(2):
        run = logged(curves)
    assert [step for step, _ in history(client, run, "learning.loss")] == steps
    assert [step for step, _ in history(client, run, "learning.dice")] == steps
    assert len(run.inputs.dataset_inputs) == 1


def test_data_outside_dvc_are_known_by_their_cases(logged):
    without = KNOWN | {"raw": None}
    (data,) = logged({"step": [1], "loss": [1.0], "dice": [0.0]}, without).inputs.dataset_inputs
    others = without | {"cases": [case | {"key": "another"} for case in CASES]}
    digests = {
        one.dataset.digest for one in logged({"step": [1], "loss": [1.0]}, others).inputs.dataset_inputs
    }
    assert len(digests | {data.dataset.digest}) == 2
