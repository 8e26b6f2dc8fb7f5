"""Plug-ins of edgetune's own: a package's modules are looked through, so that another one is another file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def module_names(package: str) -> tuple[str, ...]:
    """Return the names of a package's modules, in alphabetical order, without importing them."""
    return tuple(found.name for found in pkgutil.iter_modules(importlib.import_module(package).__path__))


def modules_of(package: str) -> Iterator[ModuleType]:
    """Import and yield the modules of a package, in alphabetical order."""
    for name in module_names(package):
        yield importlib.import_module(f"{package}.{name}")


def classes_of(package: str, base: type[T], mark: str) -> Iterator[type[T]]:
    """Yield the classes of a package's modules that extend `base` and set the attribute `mark` themselves.

    Those without it are shared by others.
    """
    for module in modules_of(package):
        yield from (kind for kind in own_classes(module, base) if mark in vars(kind))


def own_classes(module: ModuleType, base: type[T]) -> Iterator[type[T]]:
    """Yield the classes that a module itself defines and that extend `base`."""
    for kind in vars(module).values():
        if isinstance(kind, type) and kind.__module__ == module.__name__ and issubclass(kind, base):
            yield kind
