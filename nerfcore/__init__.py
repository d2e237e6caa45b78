"""The engine: data, radiance fields, training, adaptation, evaluation and the viewer.

Importing it chooses numba's OpenMP threads (before numba loads): of the bundled layers the only one
that several Python threads may enter at once, as the viewer's renderer and its adaptation do.
"""

import os

os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")
