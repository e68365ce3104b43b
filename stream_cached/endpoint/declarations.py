"""How often the application has said something of a class: what was decided before may not hold."""

from __future__ import annotations


class Declarations:
    """Counts what `in_key` and `not_in_key` have said."""

    count = 0

    def note(self) -> None:
        """Count one more."""
        self.count += 1


declarations = Declarations()
