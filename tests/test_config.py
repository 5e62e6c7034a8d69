"""The fields of a run: what is accepted, and the files in configs/."""

import ast
import pathlib
import re

import pytest
from ml_collections import ConfigDict

from srigl_jax.config import get_config, load_config, validate
from srigl_jax.extreme import config as extreme_config
from srigl_jax.methods import METHODS
from srigl_jax.models import MODELS
from srigl_jax.optimizers import OPTIMIZERS, SCHEDULES

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
FILES = sorted(path.name for path in CONFIGS.glob("[!_]*.py"))

NAN = float("nan")


def changed(field, value):
    config = get_config()
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    return config


def load(name, argument=""):
    return load_config(f"{CONFIGS / name}:{argument}")


def commands(name):
    """What its docstring says to run: (file, argument behind the colon) each."""
    docstring = ast.get_docstring(ast.parse((CONFIGS / name).read_text()))
    return re.findall(r"--config (\S+?\.py)(?::(\w+))?(?=\s)", docstring)


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
        ("t_end", 0.0),
        ("t_end", 1.1),
        ("t_end", NAN),
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
        ("optimizer.clip_norm", -1.0),
        ("optimizer.clip_norm", NAN),
        ("optimizer.reference_batch", 0),
        ("optimizer.decay_factor", 1.5),
        ("optimizer.decay_every", 0.0),
        ("optimizer.decay_every", NAN),
        ("optimizer.decay_at", (30, 0)),
        ("optimizer.decay_at", ("30",)),
        ("accumulate", 0),
        ("accumulate", 3),
        ("ema", 1.0),
        ("ema", -0.1),
        ("ema", NAN),
        ("dtype", "float16"),
        ("seed", -1),
        ("seed", 2**31),
        ("epochs", 0.0),
        ("epochs", NAN),
        ("batch_size", 0),
        ("delta_t", 0),
        ("gradient_window", 0),
        ("gradient_momentum", 1.0),
        ("gradient_momentum", 0.0),
        ("pruning.start", -0.1),
        ("pruning.end", 1.0),
        ("pruning.end", NAN),
        ("pruning.ste_decay", -1.0),
        ("pruning.rounds", 0),
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
        ("optimizer.schedule", "linear"),
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
        ("epochs", 1.5),
        ("block", 4),
        ("model.widths", ()),
        ("dataset.image_shape", (32, 32, 3)),
        ("augment.magnitude", 30),
        *(("method", method) for method in METHODS),
        *(("optimizer.name", name) for name in OPTIMIZERS),
        *(("optimizer.schedule", name) for name in SCHEDULES),
        ("optimizer.decay_at", (30, 70.5)),
        ("optimizer.reference_batch", 1),
        ("accumulate", 64),
        ("ema", 0.9999),
        ("dtype", "bfloat16"),
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
    config = load("fashion_mnist.py", "convnet")
    config.model.name = "mlp"
    message = (
        "model.hidden is 512, but mlp has no such option: it takes widths, dropout"
    )
    with pytest.raises(ValueError, match=message):
        validate(config)


def test_a_hidden_layer_has_a_neuron():
    config = load("fashion_mnist.py", "convnet")
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
    with pytest.raises(ValueError, match="choose one of sgd, adamw, rmsprop$"):
        validate(changed("optimizer.name", "lion"))
    with pytest.raises(ValueError, match="choose one of cosine, step, multistep$"):
        validate(changed("optimizer.schedule", "linear"))


@pytest.mark.parametrize(
    ("method", "field", "value", "way_out"),
    [
        ("srigl", "mask_from", "runs/other", "choose method=static"),
        ("rigl", "distribution", "global", "choose erk or uniform"),
        ("gradual", "pruning.rewind_step", 3, "choose method=lottery"),
        ("gradual", "block", 4, "needs method=srigl or sr_ste"),
        ("snfs", "gradient_window", 2, "leave it at 1"),
        ("gradual", "pruning.start", 0.6, "a share of the training from pruning.start"),
    ],
)
def test_a_field_that_the_method_cannot_follow_is_refused(
    method, field, value, way_out
):
    config = changed(field, value)
    config.method = method
    with pytest.raises(ValueError, match=way_out):
        validate(config)


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        ("static", "mask_from", "runs/other"),
        ("static", "pruning.rewind_step", 0),
        ("lottery", "pruning.rewind_step", 3),
        ("sr_ste", "block", 4),
        ("grasp", "distribution", "global"),
        ("one_shot", "pruning.start", 0.5),
    ],
)
def test_a_field_that_the_method_follows_is_accepted(method, field, value):
    config = changed(field, value)
    config.method = method
    validate(config)


def test_micro_batches_that_do_not_fill_the_batch_are_refused_with_its_size():
    with pytest.raises(ValueError, match="divides batch_size, 64$"):
        validate(changed("accumulate", 7))


@pytest.mark.parametrize("name", FILES)
def test_a_config_file_says_the_command_that_runs_it(name):
    assert commands(name)
    assert {path for path, _ in commands(name)} == {f"configs/{name}"}


@pytest.mark.parametrize("name", FILES)
def test_a_config_file_is_valid_in_every_form_it_names(name):
    for _, argument in commands(name):
        config = load(name, argument)
        if "task" in config:
            extreme_config.validate(config)
        else:
            validate(config)


@pytest.mark.parametrize("name", FILES)
def test_a_config_file_has_the_fields_of_the_default(name):
    for _, argument in commands(name):
        config = load(name, argument)
        many_labels = "task" in config
        default = extreme_config.get_config() if many_labels else get_config()
        assert set(config) == set(default)
        inner = "settings" if many_labels else "optimizer"
        assert set(config[inner]) == set(default[inner])


def test_the_default_file_is_the_embedded_default():
    assert load("digits.py").to_dict() == get_config().to_dict()
