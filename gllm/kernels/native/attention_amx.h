/* Attention on the matrix unit (AMX): how keys, values, queries and weights lie in its tiles, and how scores become weights.
 *
 * A key head's queries, of all query heads that share it, are columns; tiles hold 16 of them. Scores are computed as
 * keys times queries, [keys][columns]: keys are taken as they lie, and everything about a column (its maximum, what it
 * does not see, the sum of its weights) stays in the lane of a vector.
 *
 * A number is `parts` bfloat16: three for float32's arithmetic (amx.h); one where keys and values are bfloat16. Queries
 * and weights are then rounded to it, sums and exponentials are float32's. The sum that an output is divided by is that
 * of the rounded weights: an output is a mean of values, with weights that are off by 2^-8 at most, and the errors
 * of equal values cancel.
 */
#ifndef GLLM_ATTENTION_AMX_H
#define GLLM_ATTENTION_AMX_H

#include "attention.h"

#ifdef HAS_TILES
#include "amx.h"

#define COLUMNS 32 /* of two tiles */
#define NOT_SEEN -1e30f /* a maximum where nothing is seen: finite, so that no difference is without a value */

/* 2^x for x <= 0, to 2^-13.7, and the half of bfloat16's last place by which cutting its low bits off rounds it.
 * x = floor(x) + r; a polynomial for 2^r, with the least relative error for its degree. */
INLINE __m512 power_for_rounding(__m512 x) {
    const __m512 r = _mm512_reduce_ps(x, 1);
    __m512 p = _mm512_set1_ps(0.07802452147f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.2260671556f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.6958335638f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.9999251962f + 0x1p-8f));
    return _mm512_scalef_ps(p, x);
}

/* The high halves of two keys' elements, side by side: a row of weights. */
INLINE __m512i high_pairs(__m512 even, __m512 odd) {
    const __m512i low = _mm512_srli_epi32((__m512i)even, 16);
    return _mm512_ternarylogic_epi32(low, (__m512i)odd, _mm512_set1_epi32(0xffff0000), 0xf8); /* low | odd & mask */
}

typedef struct { /* of 16 columns */
    __m512 top, total;
} Sums;

/* Scores of 16 columns with keys [0, 32 * groups), [keys][16], become weights, [groups][parts][16 pairs of keys][16][2].
 * Returns the largest scores and the sums of weights. */
INLINE Sums weigh_columns(int parts, const float *scores, long groups, float scale, char *weights) {
    __m512 most[4], added[4];
    for (int i = 0; i < 4; i++) most[i] = _mm512_set1_ps(NOT_SEEN), added[i] = _mm512_setzero_ps();
    for (long t = 0; t < 32 * groups; t += 4)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) most[i] = _mm512_max_ps(most[i], _mm512_load_ps(scores + 16 * (t + i)));
    const __m512 top = _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3]));
    const __m512 factor = _mm512_set1_ps(scale * 1.44269504088896341f), offset = _mm512_mul_ps(top, factor);
    for (long group = 0; group < groups; group++)
        for (long pair = 0; pair < 16; pair += 4)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const float *from = scores + 16 * (32 * group + 2 * (pair + i));
                char *to = weights + group * parts * TILE_BYTES + (pair + i) * 64;
                __m512 even = _mm512_load_ps(from), odd = _mm512_load_ps(from + 16);
                if (parts == 1) {
                    even = power_for_rounding(_mm512_fmsub_ps(even, factor, offset));
                    odd = power_for_rounding(_mm512_fmsub_ps(odd, factor, offset));
                    const __m512i both = high_pairs(even, odd);
                    added[i] = _mm512_dpbf16_ps(added[i], (__m512bh)both, (__m512bh)_mm512_set1_epi32(0x3f803f80));
                    _mm512_store_si512(to, both);
                    continue;
                }
                even = (__m512)exponential((vec)_mm512_mul_ps(_mm512_sub_ps(even, top), _mm512_set1_ps(scale)));
                odd = (__m512)exponential((vec)_mm512_mul_ps(_mm512_sub_ps(odd, top), _mm512_set1_ps(scale)));
                added[i] = _mm512_add_ps(added[i], _mm512_add_ps(even, odd));
#pragma GCC unroll 3
                for (int part = 0; part < 3; part++) {
                    _mm512_store_si512(to + part * TILE_BYTES, high_pairs(even, odd));
                    even = without_high(even), odd = without_high(odd);
                }
            }
    return (Sums){top, _mm512_add_ps(_mm512_add_ps(added[0], added[1]), _mm512_add_ps(added[2], added[3]))};
}

/* What a block of keys and all before it are multiplied by, so that both refer to the same maximum. */
typedef struct {
    __m512 before, block;
} Factors;

/* A block's sums join those of all blocks before. */
INLINE Factors join(Sums *sums, Sums block, float scale) {
    const __m512 top = _mm512_max_ps(sums->top, block.top), factor = _mm512_set1_ps(scale);
    const Factors factors = {
        (__m512)exponential((vec)_mm512_mul_ps(_mm512_sub_ps(sums->top, top), factor)),
        (__m512)exponential((vec)_mm512_mul_ps(_mm512_sub_ps(block.top, top), factor)),
    };
    sums->total = _mm512_fmadd_ps(sums->total, factors.before, _mm512_mul_ps(block.total, factors.block));
    sums->top = top;
    return factors;
}

/* Rows and columns of 16 vectors change places. */
INLINE void transpose(__m512i x[16]) {
    __m512i y[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int k = 0; k < 2; k++) {
            x[i + 2 * k] = _mm512_unpacklo_epi64(y[i + k], y[i + 2 + k]);
            x[i + 2 * k + 1] = _mm512_unpackhi_epi64(y[i + k], y[i + 2 + k]);
        }
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        y[k] = _mm512_shuffle_i32x4(x[k], x[4 + k], 0x88);
        y[4 + k] = _mm512_shuffle_i32x4(x[k], x[4 + k], 0xdd);
        y[8 + k] = _mm512_shuffle_i32x4(x[8 + k], x[12 + k], 0x88);
        y[12 + k] = _mm512_shuffle_i32x4(x[8 + k], x[12 + k], 0xdd);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        x[k] = _mm512_shuffle_i32x4(y[k], y[8 + k], 0x88);
        x[8 + k] = _mm512_shuffle_i32x4(y[k], y[8 + k], 0xdd);
        x[4 + k] = _mm512_shuffle_i32x4(y[4 + k], y[12 + k], 0x88);
        x[12 + k] = _mm512_shuffle_i32x4(y[4 + k], y[12 + k], 0xdd);
    }
}

/* Queries of up to 16 columns: [steps][parts][16 pairs][16 columns][2]. */
INLINE void put_queries(int parts, const float *const *places, long count, long size, char *to) {
    for (long d = 0; d < size; d += STEP) {
        __m512i rows[parts][16];
        for (long i = 0; i < 16; i++) {
            const long left = i < count ? size - d : 0;
            const float *from = places[i < count ? i : 0] + d;
            __m512 x = _mm512_maskz_loadu_ps(first_lanes(left), from), y = _mm512_maskz_loadu_ps(first_lanes(left - 16), from + 16);
            if (parts == 1)
                rows[0][i] = rounded_row(x, y);
            else
#pragma GCC unroll 3
                for (int part = 0; part < parts; part++) {
                    rows[part][i] = high_of(x, y);
                    x = without_high(x), y = without_high(y);
                }
        }
        for (int part = 0; part < parts; part++) {
            transpose(rows[part]);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) _mm512_store_si512(to + (d / STEP * parts + part) * TILE_BYTES + i * 64, rows[part][i]);
        }
    }
}

#endif
#endif
