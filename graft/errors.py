"""What a user can cause. Each message is one sentence: what, where, what to do."""


class GraftError(Exception):
    """An error that the user can mend; shown without a traceback, exit code 1."""

    exit_code = 1


class ConfigError(GraftError):
    """The config file cannot be used; nothing has started. Exit code 2."""

    exit_code = 2


class DataError(GraftError):
    """The images cannot be used as they are."""


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
