"""Sensors as a matrix: the linear forward operator y = B x."""

from fokker.operators.base import Matrix


class SensorArray(Matrix):
    """Inputs (..., n_inputs) -> sensor values (..., n_sensors), y = B x with B (n_sensors, n_inputs).

    B is in units of the sensors over units of the inputs. For the channel of arXiv 2504.07437, section 6, it is
    `AdvectionDiffusion.sensor_matrix`. Raises InputError unless B is two-dimensional, not empty and finite.
    """
