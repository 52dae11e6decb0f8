"""The one exception that data_pipeline raises for a fault in its input."""


class DataError(Exception):
    """Something is wrong with data that a person gave: the message says what, where, and what to do about it."""
