"""The compiled library: its functions with their C types, and whether there is one.

Knows nothing of tensors.
"""

import ctypes
import logging
from functools import cache

from gllm.kernels.native.build import BuildError, built

log = logging.getLogger("gllm")

_P, _L, _I, _F = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float
SIGNATURES: dict[str, tuple[tuple[type, ...], type | None]] = {
    "gllm_panel": ((), _I),
    "gllm_linear": ((_P, _P, _I, _P, _P, _P, _L, _L, _L, _I), _I),
    "gllm_linear_amx": ((_P, _P, _I, _P, _P, _P, _L, _L, _L, _I), _I),
    "gllm_linear_amx_rounded": ((_P, _P, _I, _P, _P, _P, _L, _L, _L, _I), _I),
    "gllm_code_weight": ((_P, _I, _L, _L, _I, _P, _P, _P), None),
    "gllm_has_matrix_unit": ((), _I),
    "gllm_replay": ((_P, _L), _I),
    "gllm_attention": ((_P, _L, _P, _P, _I, _L, _L, _L, _L, _P, _L, _P, _P, _L, _F, _P), _I),
    "gllm_rms_norm": ((_P, _P, _P, _F, _L, _L, _P), None),
    "gllm_norm_heads": ((_P, _P, _P, _F, _L, _L, _L, _L), None),
    "gllm_rotary_write": ((_P, _P, _P, _P, _P, _I, _P, _L, _L, _L, _L, _L, _I), None),
    "gllm_apply_masks": ((_P, _L, _P, _P, _L, _L), None),
    "gllm_greedy": ((_P, _L, _L, _P), None),
    "gllm_silu_mul": ((_P, _L, _L, _P), None),
    "omp_get_max_threads": ((), _I),
}


@cache
def library() -> ctypes.CDLL | None:
    """The library; none, with a line in the log, where it cannot be had.

    Hazard: torch must be imported before. Its OpenMP is then the one that the library finds, and both
    share one pool of threads.
    """
    try:
        # Not PyDLL: other threads of the worker run while these functions do.
        loaded = ctypes.CDLL(str(built()))
        for name, (arguments, result) in SIGNATURES.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = arguments, result
    except (BuildError, OSError) as error:
        log.warning("computing with torch's operators, which takes about twice as long: %s", error)
        return None
    return loaded
