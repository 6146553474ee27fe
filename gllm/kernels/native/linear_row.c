/* One row times a weight that is packed for the matrix unit, with vectors: to the bit what the unit gives.
 *
 * For one row the unit would spend fifteen sixteenths of its work on nothing. It is defined down to the order of its
 * roundings: of 32 inputs, the even and the odd ones are each one chain of multiply-adds, whose sum is added to what was
 * there, and denormal numbers are zeros.
 *
 * Source: Intel's instruction set reference, TDPBF16PS.
 */
#include "linear_row.h"

#ifdef HAS_TILES
#include <omp.h>

#include "amx.h"

#define NEAR 256  /* bytes between what is multiplied and what is asked for into the first cache */
#define FAR 3072  /* and into the second */
#define VECTORS 4 /* of a panel's weights for two inputs: eight outputs each, both inputs side by side */
#define ROUNDING_OF_UNIT 0x8040 /* of the control register: denormals are zeros, taken and given */

/* Vector `i` of [PANEL][2] weights, as float32. */
INLINE __m512 weights_of(int type, const char *from, int i) {
    if (type == FLOAT32) return _mm512_loadu_ps((const float *)from + 16 * i);
    if (type == BFLOAT16) {
        const __m256i halves = _mm256_loadu_si256((const __m256i *)from + i);
        return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
    }
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from + i)));
}

/* Adds even and odd chains of 16 outputs to their sums. */
INLINE __m512 add_chains(__m512 sums, __m512 first, __m512 second) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_add_ps(sums, _mm512_add_ps(_mm512_permutex2var_ps(first, even, second), _mm512_permutex2var_ps(first, odd, second)));
}

INLINE __m512 both_inputs(const float *x) { return (__m512)_mm512_set1_epi64(*(const int64_t *)x); }

/* sums[PANEL] of one panel. x: [x_parts][steps * STEP]. The products are in the order of linear_amx.c. */
INLINE void one_panel(int type, int x_parts, const char *weights, const float *x, long steps, float *sums) {
    const long in = steps * STEP;
    const int products = x_parts == 1 ? 1 : type == FLOAT32 ? 6 : 3;
    __m512 totals[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (long k = 0; k < in; k += STEP) {
        __m512 chains[6][VECTORS];
#pragma GCC unroll 6
        for (int p = 0; p < products; p++)
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; i++) chains[p][i] = _mm512_setzero_ps();
        for (long pair = k; pair < k + STEP; pair += 2, weights += pair_bytes(type)) {
            const __m512 high = both_inputs(x + pair);
            const __m512 middle = both_inputs(x + (x_parts == 3 ? in : 0) + pair);
            const __m512 low = both_inputs(x + (x_parts == 3 ? 2 * in : 0) + pair);
            for (long i = 0; i < pair_bytes(type); i += 64) {
                _mm_prefetch(weights + NEAR + i, _MM_HINT_T0);
                _mm_prefetch(weights + FAR + i, _MM_HINT_T1);
            }
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; i++) {
                const __m512 w = weights_of(type, weights, i), rest = without_high(w);
                const __m512 w_high = type == FLOAT32 ? high_part(w) : w;
                if (x_parts == 1) {
                    chains[0][i] = _mm512_fmadd_ps(high, w_high, chains[0][i]);
                    continue;
                }
                chains[0][i] = _mm512_fmadd_ps(low, w_high, chains[0][i]);
                chains[1][i] = _mm512_fmadd_ps(middle, w_high, chains[1][i]);
                if (type == FLOAT32) {
                    const __m512 w_middle = high_part(rest), w_low = without_high(rest);
                    chains[2][i] = _mm512_fmadd_ps(middle, w_middle, chains[2][i]);
                    chains[3][i] = _mm512_fmadd_ps(high, w_middle, chains[3][i]);
                    chains[4][i] = _mm512_fmadd_ps(high, w_low, chains[4][i]);
                    chains[5][i] = _mm512_fmadd_ps(high, w_high, chains[5][i]);
                } else
                    chains[2][i] = _mm512_fmadd_ps(high, w_high, chains[2][i]);
            }
        }
#pragma GCC unroll 6
        for (int p = 0; p < products; p++) {
            totals[0] = add_chains(totals[0], chains[p][0], chains[p][1]);
            totals[1] = add_chains(totals[1], chains[p][2], chains[p][3]);
        }
    }
    _mm512_store_ps(sums, totals[0]);
    _mm512_store_ps(sums + 16, totals[1]);
}

static void any_panel(int type, int x_parts, const char *weights, const float *x, long steps, float *sums) {
    switch (type) {
    case FLOAT32: one_panel(FLOAT32, 3, weights, x, steps, sums); break;
    case BFLOAT16: x_parts == 1 ? one_panel(BFLOAT16, 1, weights, x, steps, sums) : one_panel(BFLOAT16, 3, weights, x, steps, sums); break;
    case INT8: x_parts == 1 ? one_panel(INT8, 1, weights, x, steps, sums) : one_panel(INT8, 3, weights, x, steps, sums); break;
    }
}

int multiply_row(const float *x, const void *weight, int type, int x_parts, long in, const Outputs *outputs) {
    static Workspace space;
    const long steps = (in + STEP - 1) / STEP, padded = steps * STEP, panels = (outputs->out + PANEL - 1) / PANEL;
    float *parts = reserve(&space, x_parts * sizeof(float) * padded);
    if (!parts) return 1;
    for (long k = 0; k < padded; k += 16) {
        const __m512 whole = _mm512_maskz_loadu_ps(first_lanes(in - k), x + k), rest = without_high(whole);
        if (x_parts == 1) {
            const __m256i halves = _mm512_castsi512_si256(rounded_row(whole, whole));
            _mm512_store_ps(parts + k, (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
            continue;
        }
        _mm512_store_ps(parts + k, high_part(whole));
        _mm512_store_ps(parts + padded + k, high_part(rest));
        _mm512_store_ps(parts + 2 * padded + k, without_high(rest));
    }
#pragma omp parallel if (!is_small(1, in, outputs->out, type))
    {
        float sums[PANEL] __attribute__((aligned(64)));
        const unsigned control = _mm_getcsr();
#pragma omp for schedule(guided)
        for (long panel = 0; panel < panels; panel++) {
            _mm_setcsr(control | ROUNDING_OF_UNIT);
            any_panel(type, x_parts, (const char *)weight + panel * padded / 2 * pair_bytes(type), parts, steps, sums);
            _mm_setcsr(control);
            finish(outputs, panel, 0, 1, sums);
        }
    }
    return 0;
}

#endif
