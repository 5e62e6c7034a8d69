"""A network as plain data, and back: what is in it beyond a fresh one of its kind.

Each module with something of its own becomes an entry of JSON's types: its class, the
static attributes in which it differs from a fresh module, and which variables it holds.
The arrays go beside. A module of another class than the fresh one is rebuilt by its
constructor, which takes arguments of the names of its attributes: `Linear`, `Conv`, and
all modules of `srigl_jax.condensed.modules`. What else one of those holds is taken to
be made by its constructor, for the machine it is on, and is not stored. Nothing else is
ever called, so entries from any source are safe to read.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srigl_jax.condensed import modules
from srigl_jax.condensed.representation import Condensed, check_condensed
from srigl_jax.sparsity.layout import Layout

_ARRAYS = ("values", "indices", "active", "bias")

Entries = dict[str, dict[str, Any]]
Tensors = dict[str, np.ndarray]


def describe(model: nnx.Module, fresh: nnx.Module) -> tuple[Entries, Tensors]:
    """Turns a network into entries by module path, and tensors by name.

    Args:
      model: the network.
      fresh: another one of the same making, of which only shapes are looked at.

    Raises:
      ValueError: a module or an attribute, which is named, cannot be stored.
    """
    entries: Entries = {}
    tensors: Tensors = {}
    _describe(model, fresh, "", entries, tensors)
    return entries, tensors


def restore(fresh: nnx.Module, entries: Entries, tensors: Tensors) -> None:
    """Makes of a fresh network the one that was described.

    Args:
      fresh: changed in place.
      entries: by module path, those of a module before those inside it.
      tensors: all that the entries speak of, and no others.

    Raises:
      ValueError: names the module and what is wrong with it.
    """
    unused = dict(tensors)
    for path, entry in entries.items():
        with _naming(path):
            _restore(fresh, path, entry, unused)
    if unused:
        raise ValueError(f"no module has the tensors {', '.join(sorted(unused))}")


def _describe(module, fresh, path, entries, tensors) -> None:
    cls = type(module)
    fresh = fresh if type(fresh) is cls else None
    if fresh is None and cls is not _replacements().get(cls.__name__):
        raise ValueError(
            f"{path or 'the model'} is a {cls.__name__}, which cannot be stored: "
            f"choose one of {', '.join(_replacements())}"
        )
    is_own = fresh is None and cls in _own_classes(nnx.Module).values()
    attributes, variables, inside = {}, {}, {}
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or (is_own and name not in _parameters(cls)):
            continue
        if isinstance(value, nnx.Module):
            inside[name] = value
        elif isinstance(value, nnx.Variable):
            variables[name] = _describe_variable(value, _join(path, name), tensors)
        elif fresh is not None:
            if _is_plain(value) and not _equal(value, vars(fresh).get(name)):
                attributes[name] = value
        elif name in _parameters(cls):
            if _is_plain(value):
                attributes[name] = value
            elif value is not _parameters(cls)[name].default:
                raise ValueError(f"{_join(path, name)} is {value!r}: not to be stored")
    if fresh is None or attributes or variables:
        entries[path] = {
            "class": cls.__name__,
            "attributes": attributes,
            "variables": variables,
        }
    for name, value in inside.items():
        before = None if fresh is None else vars(fresh).get(name)
        _describe(value, before, _join(path, name), entries, tensors)


def _describe_variable(variable, where, tensors) -> dict[str, Any]:
    value = variable.get_value()
    entry: dict[str, Any] = {"class": type(variable).__name__}
    if isinstance(value, Condensed):
        entry["layout"] = dataclasses.asdict(value.layout)
        arrays = {_join(where, name): getattr(value, name) for name in _ARRAYS}
    elif isinstance(value, jax.Array | np.ndarray):
        arrays = {where: value}
    else:
        raise ValueError(f"{where} holds a {type(value).__name__}: not to be stored")
    # In C order, which safetensors takes for granted without a look.
    tensors |= {
        name: np.asarray(array, order="C")
        for name, array in arrays.items()
        if array is not None
    }
    return entry


def _restore(root, path, entry, tensors) -> None:
    *outer, name = path.split("/")
    parent = root
    for step in outer:
        parent = vars(parent)[step]
    module = vars(parent)[name] if path else root
    attributes = {k: _tuples(v) for k, v in entry["attributes"].items()}
    variables = {
        k: _restore_variable(v, _join(path, k), tensors)
        for k, v in entry["variables"].items()
    }
    if type(module).__name__ != entry["class"]:
        cls = _replacements().get(entry["class"])
        if cls is None or not path:
            raise ValueError(f"there is no module class {entry['class']!r}")
        module = _construct(cls, attributes, variables)
        setattr(parent, name, module)
    for k, value in (attributes | variables).items():
        if k.startswith("_") or k not in vars(module):
            raise ValueError(f"a {entry['class']} has no attribute {k!r}")
        setattr(module, k, value)


def _construct(cls, attributes, variables) -> nnx.Module:
    parameters = _parameters(cls)
    arguments = attributes | {k: v.get_value() for k, v in variables.items()}
    arguments = {k: v for k, v in arguments.items() if k in parameters}
    if "rngs" in parameters:
        arguments["rngs"] = nnx.Rngs(0)
    module = cls(**arguments)
    module.eval()
    return module


def _restore_variable(entry, where, tensors) -> nnx.Variable:
    cls = _variable_classes()[entry["class"]]
    if "layout" not in entry:
        if where not in tensors:
            raise ValueError(f"the tensor {where} is missing")
        return cls(jnp.asarray(tensors.pop(where)))
    arrays = {name: tensors.pop(_join(where, name), None) for name in _ARRAYS}
    missing = [k for k in _ARRAYS if arrays[k] is None and k != "bias"]
    if missing:
        raise ValueError(f"the tensors {', '.join(missing)} are missing")
    condensed = Condensed(**arrays, layout=_layout(**entry["layout"]))
    check_condensed(condensed)
    return cls(jax.tree.map(jnp.asarray, condensed))


def _layout(shape, neuron_axes) -> Layout:
    axes = tuple(neuron_axes)
    if not (
        all(isinstance(n, int) and n >= 0 for n in shape)
        and 0 < len(axes) < len(shape)
        and axes == tuple(sorted(set(axes) & set(range(len(shape)))))
    ):
        raise ValueError(f"there is no kernel {shape} with neurons on axes {axes}")
    return Layout(tuple(shape), axes)


def _replacements() -> dict[str, type[nnx.Module]]:
    """The classes that may stand where a fresh network has another one."""
    return _own_classes(nnx.Module) | {"Linear": nnx.Linear, "Conv": nnx.Conv}


def _variable_classes() -> dict[str, type[nnx.Variable]]:
    flax_classes = (nnx.Variable, nnx.Param, nnx.BatchStat)
    return _own_classes(nnx.Variable) | {cls.__name__: cls for cls in flax_classes}


def _own_classes(base: type) -> dict[str, type]:
    return {
        name: value
        for name, value in vars(modules).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__ == modules.__name__
    }


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    # Not of the class: nnx's metaclass takes anything.
    parameters = dict(inspect.signature(cls.__init__).parameters)
    del parameters["self"]
    return parameters


def _equal(value: Any, before: Any) -> bool:
    # A variable compares its array, which may be abstract.
    return not isinstance(before, nnx.Variable) and value == before


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold a value, tuples taken for lists."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"layer {path or '/'}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"layer {path or '/'} cannot be rebuilt: {type(error).__name__}: {error}"
        ) from error
