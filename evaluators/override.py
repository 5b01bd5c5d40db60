"""Attributes set on objects that others own, and taken back exactly."""

import warnings
from collections.abc import Callable
from typing import Any

_ABSENT = object()


class Overrides:
    """Instance attributes that shadow an object's own, undone in reverse order.

    `undo` puts back what each object's `__dict__` held before, so an attribute that came from the class is deleted.
    """

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any, Any] | Callable[[], None]] = []

    def on_undo(self, action: Callable[[], None]) -> None:
        """Call `action` in its turn among what is undone: after what was set later, before what was set earlier."""
        self._undo.append(action)

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Shadow `owner.name` with `value`."""
        self._undo.append((owner, name, vars(owner).get(name, _ABSENT), value))
        setattr(owner, name, value)

    def replaced(self, name: str) -> list[Any]:
        """Owners whose attribute of this name someone else has replaced since."""
        entries = [entry for entry in self._undo if not callable(entry)]
        latest = {id(owner): (owner, value) for owner, set_name, _, value in entries if set_name == name}
        return [owner for owner, value in latest.values() if vars(owner).get(name) is not value]

    def undo(self) -> None:
        """Take back all that was set; what someone else has replaced since stays, with a warning."""
        replaced = []
        while self._undo:
            entry = self._undo.pop()
            if callable(entry):
                entry()
                continue
            owner, name, before, value = entry
            if vars(owner).get(name, _ABSENT) is not value:
                replaced.append(f"{type(owner).__name__}.{name}")
            elif before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        for name in replaced:
            warnings.warn(
                f"{name} was replaced after autotune had set it, and is left as it is; undo in the opposite order to "
                f"restore it",
                stacklevel=3,
            )
