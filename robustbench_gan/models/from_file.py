"""A user's own classifier, written `path/to/file.py:factory`: the file, and how its factory is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_gan.base.errors import UsageError, described
from robustbench_gan.base.python_file import UserFile
from robustbench_gan.nouns.spec import FileReference
from robustbench_gan.nouns.user_files import file_of

Shape = tuple[int, int, int]
WANTED = "write `def {name}(shape, classes):`, or one without parameters, that returns a torch.nn.Module"
NAMES = {
    "shape": ("shape", "image_shape", "input_shape", "img_shape"),
    "classes": ("classes", "num_classes", "n_classes", "number_of_classes", "nb_classes", "class_count"),
    "channels": ("channels", "in_channels", "num_channels", "input_channels", "in_chans"),
}
"""What a parameter is given by its name; of the channels only where it must be given something."""


def factory_from_file(given: FileReference) -> Callable[[Shape, int], nn.Module]:
    """A user's own factory, written `path/to/file.py:name`; the file is run as Python.

    It may import what lies beside it. The factory is called with nothing where it needs nothing, else with the shape
    of an image, (C, H, W), and the number of classes; parameters of those names are given by name. Raises UsageError
    when the file or the name is not there, the file fails, or nothing says how the factory is to be called.
    """
    path, name = file_of(given), given.factory
    if not path.is_file():
        raise UsageError(f"no file {str(given.path)!r}: write --classifier path/to/file.py:factory.")
    try:
        file = UserFile(path)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        raise UsageError(f"{path} fails to run: {described(error)}.{_hint(error)}") from error
    factory = getattr(file.module, name, None)
    if factory is None:
        raise UsageError(f"{path} has no function {name!r}.{_others(file)}")
    call = _call(factory, name, path)

    def build(shape: Shape, classes: int) -> nn.Module:
        try:
            with file.at_work():
                model = call(shape, classes)
        except (Exception, SystemExit) as error:
            raise UsageError(f"{path}:{name} fails to make a model: {described(error)}.") from error
        if not isinstance(model, nn.Module):
            made = f"the class {model.__name__}" if inspect.isclass(model) else f"a {type(model).__name__}"
            raise UsageError(f"{path}:{name}: the factory gave {made}, not a torch.nn.Module.")
        return model

    return build


def _hint(error: BaseException) -> str:
    missing = isinstance(error, ModuleNotFoundError)
    return " What it imports must be installed, or lie in its own directory." if missing else ""


def _others(file: UserFile) -> str:
    """The functions and classes that a file has of its own."""
    own = [n for n, v in vars(file.module).items() if getattr(v, "__module__", "") == file.module.__name__]
    return f" It has {', '.join(own[:8])}." if own else ""


def _call(factory: Any, name: str, path: Path) -> Callable[[Shape, int], Any]:
    """How a factory is called. Raises UsageError where it cannot be, or nothing says how."""
    wanted = WANTED.format(name=name if name.isidentifier() else "factory")
    what = _no_factory(factory)
    if what:
        raise UsageError(f"{path} has no function {name!r}: it is {what}; {wanted}.")
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}:{name} does not say what it takes: {wanted}.") from error
    parameters = signature.parameters.values()
    by_name = {p.name: kind for p in parameters for kind, names in NAMES.items() if p.name.lower() in names}
    empty = inspect.Parameter.empty
    given = {
        p.name: by_name[p.name]
        for p in parameters
        if p.name in by_name and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and (by_name[p.name] != "channels" or p.default is empty)
    }  # fmt: skip
    loose = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    open_ = [p for p in parameters if p.default is empty and p.kind not in loose and p.name not in given]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    twice = len(set(given.values())) < len(given)
    if len(open_) == 2 and not given and open_ == positional[:2]:
        return lambda shape, classes: factory(shape, classes)
    if open_ or twice or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise UsageError(
            f"{path}:{name} takes {_shown(signature)}, and nothing says what to give it: {wanted}."
        )

    def call(shape: Shape, classes: int) -> Any:
        values = {"shape": shape, "classes": classes, "channels": shape[0]}
        return factory(**{name: values[kind] for name, kind in given.items()})

    return call


def _no_factory(found: Any) -> str:
    """What is no factory, in words; empty for one."""
    if isinstance(found, nn.Module):
        return f"a {type(found).__name__} already"
    if inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found):
        return "an async function"
    if inspect.isgeneratorfunction(found):
        return "a generator"
    if inspect.ismodule(found):
        return "a module"
    return "" if callable(found) else f"a {type(found).__name__}"


def _shown(signature: inspect.Signature) -> str:
    """The parameters without types and values, which may be of any length."""
    plain = [p.replace(annotation=p.empty, default=p.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(plain))
