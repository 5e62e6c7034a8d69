"""The fields of a run: what is accepted, and the files in configs/."""

import importlib.util
import pathlib
import re

import pytest
from ml_collections import ConfigDict

from srigl_jax.config import METHODS, OPTIMIZERS, get_config, validate
from srigl_jax.models import MODELS

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
FILES = sorted(path.name for path in CONFIGS.glob("[!_]*.py"))

NAN = float("nan")


def changed(field, value):
    config = get_config()
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    return config


def load(name):
    spec = importlib.util.spec_from_file_location(name[:-3], CONFIGS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(name):
    """What its docstring says to run: (file, argument behind the colon) each."""
    return re.findall(r"--config (\S+?\.py)(?::(\w+))?(?=\s)", load(name).__doc__)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sparsity", 1.0),
        ("sparsity", -0.1),
        ("sparsity", NAN),
        ("gamma_sal", 1.5),
        ("gamma_sal", NAN),
        ("alpha", -0.1),
        ("alpha", 1.1),
        ("label_smoothing", 1.5),
        ("model.dropout", -0.5),
        ("model.widths", (16, 0)),
        ("model.widths", ("16",)),
        ("model.widths", (16.5,)),
        ("model.widths", 16),
        ("optimizer.momentum", 1.1),
        ("optimizer.learning_rate", -0.1),
        ("optimizer.learning_rate", NAN),
        ("optimizer.weight_decay", -1e-4),
        ("optimizer.warmup_epochs", -1.0),
        ("optimizer.warmup_epochs", 120.0),
        ("seed", -1),
        ("seed", 2**31),
        ("epochs", 0),
        ("batch_size", 0),
        ("delta_t", 0),
        ("gradient_window", 0),
        ("log_every", 0),
        ("eval_every", 0),
        ("checkpoint_every", 0),
        ("keep_checkpoints", 0),
        ("block", 0),
        ("method", "dence"),
        ("distribution", "erdos"),
        ("growth_candidates", "some"),
        ("model.name", "resnet"),
        ("optimizer.name", "adam"),
        ("dataset.name", "cifar"),
        ("dataset.validation", -1),
        ("dataset.workers", -1),
        ("dataset.classes", 0),
        ("dataset.examples", 0),
        ("dataset.image_shape", (32, 32)),
        ("dataset.image_shape", (32, 32, 0)),
        ("dataset.image_shape", 32),
        ("augment.crop_padding", -1),
        ("augment.randaugment", -1),
        ("augment.magnitude", 31),
        ("augment.mixup", -0.1),
        ("augment.cutmix", NAN),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field, value):
    shown = re.escape(repr(value))
    with pytest.raises(ValueError, match=rf"^{field} is {shown}: "):
        validate(changed(field, value))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sparsity", 0.0),
        ("sparsity", 0.999),
        ("gamma_sal", 0.0),
        ("gamma_sal", 1.0),
        ("optimizer.warmup_epochs", 0.0),
        ("optimizer.learning_rate", 0.0),
        ("seed", 2**31 - 1),
        ("epochs", 2),
        ("block", 4),
        ("model.widths", ()),
        ("dataset.image_shape", (32, 32, 3)),
        ("augment.magnitude", 30),
        *(("method", method) for method in METHODS),
        *(("optimizer.name", name) for name in OPTIMIZERS),
    ],
)
def test_a_value_at_the_edge_of_the_range_is_accepted(field, value):
    validate(changed(field, value))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("sparsty", "no config field sparsty: did you mean sparsity?"),
        ("optimizer.momentun", "optimizer.momentun: did you mean optimizer.momentum?"),
        ("frobnicate", "no config field frobnicate: see srigl_jax/config.py"),
    ],
)
def test_a_field_that_no_default_has_is_refused(field, message):
    config = get_config()
    *group, name = field.split(".")
    setattr(getattr(config, *group) if group else config, name, 0.99)
    with pytest.raises(ValueError, match=re.escape(message)):
        validate(config)


def test_a_config_without_a_field_is_refused():
    config = get_config()
    del config.optimizer.momentum
    with pytest.raises(ValueError, match=r"lacks the fields \['optimizer.momentum'\]"):
        validate(config)


def test_an_option_of_another_network_is_refused():
    config = load("fashion_mnist.py").get_config("convnet")
    config.model.name = "mlp"
    message = (
        "model.hidden is 512, but mlp has no such option: it takes widths, dropout"
    )
    with pytest.raises(ValueError, match=message):
        validate(config)


def test_a_hidden_layer_has_a_neuron():
    config = load("fashion_mnist.py").get_config("convnet")
    config.model.hidden = 0
    with pytest.raises(ValueError, match="model.hidden is 0: give a whole number"):
        validate(config)


def test_an_option_that_is_true_or_false_is_not_a_number():
    config = get_config()
    config.model = ConfigDict({"name": "resnet50", "small_images": True})
    validate(config)
    config.model = ConfigDict({"name": "resnet50", "small_images": 32})
    with pytest.raises(ValueError, match="small_images is 32: give True or False"):
        validate(config)


@pytest.mark.parametrize("name", MODELS)
def test_every_network_can_be_chosen_by_its_name_alone(name):
    config = get_config()
    config.model = ConfigDict({"name": name})
    validate(config)


def test_options_of_a_network_that_are_not_set_are_its_own_defaults():
    config = get_config()
    del config.model.widths
    validate(config)


def test_a_choice_lists_what_there_is():
    with pytest.raises(ValueError, match="choose one of sgd, adamw$"):
        validate(changed("optimizer.name", "lion"))


@pytest.mark.parametrize("name", FILES)
def test_a_config_file_says_the_command_that_runs_it(name):
    assert commands(name)
    assert {path for path, _ in commands(name)} == {f"configs/{name}"}


@pytest.mark.parametrize("name", FILES)
def test_a_config_file_is_valid_in_every_form_it_names(name):
    for _, argument in commands(name):
        validate(load(name).get_config(*filter(None, [argument])))


@pytest.mark.parametrize("name", FILES)
def test_a_config_file_has_the_fields_of_the_default(name):
    default = get_config()
    for _, argument in commands(name):
        config = load(name).get_config(*filter(None, [argument]))
        assert set(config) == set(default)
        assert set(config.optimizer) == set(default.optimizer)


def test_the_default_file_is_the_embedded_default():
    assert load("digits.py").get_config().to_dict() == get_config().to_dict()
