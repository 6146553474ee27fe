/* Replays calls of this library that were recorded: one call from outside instead of a hundred.
 *
 * The operators between two decode steps differ in what lies at their addresses alone. Knows nothing of layers; what the
 * arguments mean is each operator's own.
 */
#include "operators.h"

/* As recording.py numbers them. */
enum { LINEAR, LINEAR_AMX, LINEAR_AMX_ROUNDED, RMS_NORM, NORM_HEADS, ROTARY_WRITE, SILU_MUL, ATTENTION };

typedef union {
    void *at;
    long whole;
    double real;
} Argument;

typedef struct {
    long operator;
    Argument given[16];
} Call;

static int multiply(__typeof__(gllm_linear) *product, const Argument *a) {
    return product(a[0].at, a[1].at, a[2].whole, a[3].at, a[4].at, a[5].at, a[6].whole, a[7].whole, a[8].whole, a[9].whole);
}

static int run(const Call *call) {
    const Argument *a = call->given;
    switch (call->operator) {
    case LINEAR: return multiply(gllm_linear, a);
    case LINEAR_AMX: return multiply(gllm_linear_amx, a);
    case LINEAR_AMX_ROUNDED: return multiply(gllm_linear_amx_rounded, a);
    case RMS_NORM: gllm_rms_norm(a[0].at, a[1].at, a[2].at, a[3].real, a[4].whole, a[5].whole, a[6].at); return 0;
    case NORM_HEADS:
        gllm_norm_heads(a[0].at, a[1].at, a[2].at, a[3].real, a[4].whole, a[5].whole, a[6].whole, a[7].whole);
        return 0;
    case ROTARY_WRITE:
        gllm_rotary_write(a[0].at, a[1].at, a[2].at, a[3].at, a[4].at, a[5].whole, a[6].at, a[7].whole, a[8].whole,
                          a[9].whole, a[10].whole, a[11].whole, a[12].whole);
        return 0;
    case SILU_MUL: gllm_silu_mul(a[0].at, a[1].whole, a[2].whole, a[3].at); return 0;
    case ATTENTION:
        return gllm_attention(a[0].at, a[1].whole, a[2].at, a[3].at, a[4].whole, a[5].whole, a[6].whole, a[7].whole,
                              a[8].whole, a[9].at, a[10].whole, a[11].at, a[12].at, a[13].whole, a[14].real, a[15].at);
    }
    return 1;
}

/* Returns 0, or 1 as soon as one of the calls does. */
int gllm_replay(const Call *calls, long count) {
    for (long i = 0; i < count; i++)
        if (run(&calls[i])) return 1;
    return 0;
}
