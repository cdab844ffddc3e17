"""What users downloaded: finding files in folders and zip archives, and refusing bad ones."""

from pcm3_jax.errors import UserError


class BadFile(UserError):
    """A raw file that cannot be used.

    Attributes:
        file: where it is, for messages: a path, or `archive.zip/path/in/it`.
        line: 1-based number of the offending line; None where it is the file as a whole.
        reason: what was found and what was expected, as one clause without a full stop.
    """

    def __init__(self, file: str, line: int | None, reason: str):
        super().__init__(file, line, reason)
        self.file, self.line, self.reason = file, line, reason

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}, line {self.line}"
        return (
            f"{place}: {self.reason}; repair or remove the file, or leave it out with "
            "--on_bad_file=skip."
        )
