"""Which faults were ordered, and which requests met them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plaud_provider.emulator.faults import Delay, ExpireTokens, Fault
from plaud_provider.emulator.wire import Request


@dataclass(slots=True)
class Ordered:
    """
    A fault that was ordered.

    :param passed: Matching requests that it let pass.
    :param consumed: Requests that met it.
    """

    id: int
    fault: Fault
    passed: int = 0
    consumed: int = 0

    def meets(self, request: Request) -> bool:
        """Return whether this request meets the fault, and count it."""
        if self.fault.times is not None and self.consumed >= self.fault.times:
            return False
        if not self.fault.match.accepts(request):
            return False
        if self.passed < self.fault.skip:
            self.passed += 1
            return False
        self.consumed += 1
        return True

    def view(self) -> dict[str, Any]:
        """Return it as JSON values."""
        left = None if self.fault.times is None else self.fault.times - self.consumed
        instruction = self.fault.model_dump(mode="json", exclude_defaults=True)
        return {
            "id": self.id,
            "consumed": self.consumed,
            "left": left,
            "passed": self.passed,
            "times": self.fault.times,
            **instruction,
        }


class FaultBook:
    """The faults that were ordered, in order."""

    def __init__(self) -> None:
        self._ordered: list[Ordered] = []
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._ordered)

    def add(self, fault: Fault) -> Ordered:
        """Order a fault."""
        self._last_id += 1
        ordered = Ordered(self._last_id, fault)
        self._ordered.append(ordered)
        return ordered

    def all(self) -> list[Ordered]:
        """Return what was ordered, consumed or not."""
        return list(self._ordered)

    def remove(self, fault_id: int) -> bool:
        """Take a fault back; return whether there was one."""
        kept = [ordered for ordered in self._ordered if ordered.id != fault_id]
        found = len(kept) < len(self._ordered)
        self._ordered = kept
        return found

    def clear(self) -> None:
        """Take all faults back. Ids are not used again."""
        self._ordered = []

    def meet(self, request: Request) -> list[Ordered]:
        """
        Return the faults that a request meets, and count it for each.

        Those that only delay or expire let the request go on to the next; the first other one is the last.
        """
        met = []
        for ordered in self._ordered:
            if ordered.meets(request):
                met.append(ordered)
                if not isinstance(ordered.fault, Delay | ExpireTokens):
                    break
        return met
