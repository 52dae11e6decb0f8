"""Where tasks run: the same function on this machine's cores, or on a Ray cluster."""

from data_pipeline.config import Execution
from data_pipeline.execute.drivers.driver import Driver


def driver_for(execution: Execution) -> Driver:
    """The driver that a configuration names."""
    if execution.driver == "ray":
        from data_pipeline.execute.drivers.on_ray import OnRay

        return OnRay(execution)
    from data_pipeline.execute.drivers.local import Local

    return Local(execution)
