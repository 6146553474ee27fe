/* Intel's matrix unit (AMX), which multiplies bfloat16 only, and float32 as the exact sum of three of these.
 *
 * A float32 has 24 significant bits, a bfloat16 8: x = high + middle + low, without rounding.
 * Source of the splitting: Henry, Tang and Heinecke 2019. Knows nothing of what is multiplied.
 */
#ifndef GLLM_AMX_H
#define GLLM_AMX_H

#include <immintrin.h>

#include "tile.h"

#define TILE_BYTES 1024 /* 16 rows of 32 bfloat16 */
#define TILE_ROWS 16
#define STEP 32 /* inputs that one instruction sums */

static const uint16_t high_halves[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                         33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};

INLINE __m512 high_part(__m512 x) { return (__m512)_mm512_and_si512((__m512i)x, _mm512_set1_epi32(0xffff0000)); }

INLINE __m512 without_high(__m512 x) { return x - high_part(x); }

/* The high halves of both vectors' elements: a row of a tile. */
INLINE __m512i high_of(__m512 a, __m512 b) {
    return _mm512_permutex2var_epi16((__m512i)a, _mm512_loadu_si512(high_halves), (__m512i)b);
}

/* The parts of 32 floats, each a row of a tile; the parts lie `step` bytes apart. */
INLINE void split(__m512 a, __m512 b, char *to, long step) {
    _mm512_store_si512(to, high_of(a, b));
    a = without_high(a), b = without_high(b);
    _mm512_store_si512(to + step, high_of(a, b));
    a = without_high(a), b = without_high(b);
    _mm512_store_si512(to + 2 * step, high_of(a, b));
}

/* Rows, and bytes of a row, of each tile. */
INLINE void configure_tiles(const int rows[8], const int bytes[8]) {
    struct __attribute__((packed)) {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes_of_row[16];
        uint8_t rows[16];
    } tiles = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        tiles.bytes_of_row[i] = bytes[i];
        tiles.rows[i] = rows[i];
    }
    /* gcc 12 believes that only 8 bytes are read, and may drop the others. */
    __asm__ volatile("" : : "r"(&tiles) : "memory");
    _tile_loadconfig(&tiles);
}

/* 32 floats to the nearest bfloat16: a row of a tile. */
INLINE __m512i rounded_row(__m512 a, __m512 b) { return (__m512i)_mm512_cvtne2ps_pbh(b, a); }

/* Of a vector's 16 elements the first `count`, which may be more or less than there are. */
INLINE __mmask16 first_lanes(long count) { return count >= 16 ? 0xffff : count > 0 ? (1 << count) - 1 : 0; }

/* STEP inputs of a row that has `left` more become rows of tiles, `tile` bytes apart: three parts, or rounded one. */
INLINE void split_step(const float *x, long left, int parts, long tile, char *to) {
    const __m512 a = _mm512_maskz_loadu_ps(first_lanes(left), x);
    const __m512 b = _mm512_maskz_loadu_ps(first_lanes(left - 16), x + 16);
    if (parts == 3)
        split(a, b, to, tile);
    else
        _mm512_store_si512(to, rounded_row(a, b));
}

#endif
