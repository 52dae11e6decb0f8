"""The exceptions that megamodel raises for faults a person can mend."""


class ModelError(Exception):
    """A model, layout or state that cannot work: the message says what, where, and what to do about it."""


class CheckpointError(ModelError):
    """A checkpoint that cannot be believed or does not fit: the message names the file and the tensor."""


class CheckpointUnreadable(CheckpointError):
    """A checkpoint that may well be good but this process cannot read: permission, disk, newer format."""
