"""What a command hands back: the same result for a person and for a program."""

import dataclasses


@dataclasses.dataclass
class Outcome:
    """The result of a command.

    Attributes:
        text: for a person.
        data: for `--json`: dicts, lists, numbers, strings.
        code: the exit code.
    """

    text: str
    data: object
    code: int = 0
