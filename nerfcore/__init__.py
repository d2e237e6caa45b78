"""The engine: data, radiance fields, training, adaptation, evaluation and the viewer.

Importing it chooses numba's threads, before numba loads (see `machine.set_thread_variables`).
"""

from nerfcore.machine import set_thread_variables

set_thread_variables()
