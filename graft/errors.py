"""What a user can cause. Each message is one sentence: what, where, what to do."""


class GraftError(Exception):
    """An error that the user can mend; shown without a traceback, exit code 1."""

    exit_code = 1


class ConfigError(GraftError):
    """The config file cannot be used; nothing has started. Exit code 2."""

    exit_code = 2


class DataError(GraftError):
    """The images cannot be used as they are."""


class StorageError(GraftError):
    """A file cannot be written."""


class WeightsError(GraftError):
    """The pretrained weights cannot be loaded."""


class TrainingError(GraftError):
    """Training cannot go on, or did something that it must not."""


class ExportError(GraftError):
    """The exported model is not what its source is."""


class PromotionRefusedError(GraftError):
    """The challenger did not pass the gate."""


class RegistryError(GraftError):
    """The registry does not hold what was asked for."""


def shown(name: object) -> str:
    """A file's name on one line, with whatever would disturb a terminal written as an escape."""
    text = str(name).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def said(error: Exception) -> str:
    """What an error of a library says, on one line, without the address of a buffer, which differs each time."""
    text = shown(" ".join(str(error).split()).split(" <_io.")[0])
    return text if text and isinstance(error, OSError) else f"{type(error).__name__}: {text}"
