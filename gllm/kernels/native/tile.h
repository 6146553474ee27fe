/* The inner product of the backend: a tile of ROWS rows by one panel of outputs, kept in registers.
 *
 * Whatever the shape, an element is one chain of multiply-adds in order, which is then added to what was
 * there: to the bit the same in any tile.
 */
#ifndef GLLM_TILE_H
#define GLLM_TILE_H

#include "vectors.h"

#define PANEL (2 * LANES)
#if LANES == 16
#define ROWS 12 /* rows of a tile: 24 sums, 2 weights and an x in 32 registers */
#elif LANES == 8
#define ROWS 6 /* of 16 registers */
#else
#define ROWS 8
#endif

enum { FLOAT32, BFLOAT16, INT8 };

INLINE void widen(int type, const void *panel, long k, vec *w0, vec *w1) {
    if (type == FLOAT32) {
        const float *w = (const float *)panel + k * PANEL;
        *w0 = load(w);
        *w1 = load(w + LANES);
    } else if (type == BFLOAT16) { /* pairs: low halves are the first outputs, high halves the others */
        uvec both;
        memcpy(&both, (const uint16_t *)panel + k * PANEL, sizeof both);
        *w0 = (vec)(both << 16);
        *w1 = (vec)(both & 0xffff0000u);
    } else {
        bytes first, second;
        memcpy(&first, (const int8_t *)panel + k * PANEL, sizeof first);
        memcpy(&second, (const int8_t *)panel + k * PANEL + LANES, sizeof second);
        /* Twice as wide each time: what widens more at once, gcc 12 converts element by element. */
        *w0 = __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(first, shorts), ivec), vec);
        *w1 = __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(second, shorts), ivec), vec);
    }
}

INLINE long bytes_of(int type) { return type == FLOAT32 ? 4 : type == BFLOAT16 ? 2 : 1; }

/* tile[rows][PANEL] (+)= x[rows][depth] @ panel[depth][PANEL]; x's element (row, k) is at
 * x[row * row_step + k * k_step]. Meanwhile asks memory for `lines` pieces of `piece` bytes from `next` on. */
INLINE void tile(int type, int rows, long depth, const float *x, long row_step, long k_step, const void *panel,
                 float *out, long out_step, int is_first, const char *next, long piece, long lines) {
    vec sums[ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        sums[i][0] = sums[i][1] = (vec){0};
    }
    for (long k = 0; k < depth; k++) {
        vec w0, w1;
        widen(type, panel, k, &w0, &w1);
        if (k < lines) {
            if (piece > 64) { /* of what comes next: into the first cache */
                __builtin_prefetch(next + piece * k);
                __builtin_prefetch(next + piece * k + 64);
            } else
                __builtin_prefetch(next + piece * k, 0, 2);
        }
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            const float value = x[i * row_step + k * k_step];
            sums[i][0] += value * w0;
            sums[i][1] += value * w1;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        float *to = out + i * out_step;
        store(to, is_first ? sums[i][0] : load(to) + sums[i][0]);
        store(to + LANES, is_first ? sums[i][1] : load(to + LANES) + sums[i][1]);
    }
}

#define TILE_CASE(n)                                                                                       \
    case n:                                                                                                \
        if (n <= ROWS)                                                                                     \
            tile(type, n, depth, x, row_step, k_step, panel, out, out_step, is_first, next, piece, lines);        \
        break;

INLINE void any_tile(int type, int rows, long depth, const float *x, long row_step, long k_step,
                     const void *panel, float *out, long out_step, int is_first, const char *next, long piece, long lines) {
    switch (rows) {
        TILE_CASE(1) TILE_CASE(2) TILE_CASE(3) TILE_CASE(4) TILE_CASE(5) TILE_CASE(6)
        TILE_CASE(7) TILE_CASE(8) TILE_CASE(9) TILE_CASE(10) TILE_CASE(11) TILE_CASE(12)
    }
}

static inline void tile_float32(int rows, long depth, const float *x, long row_step, long k_step, const void *panel,
                         float *out, long out_step, int is_first, const char *next, long piece, long lines) {
    if (rows == ROWS && row_step == 1) /* the common one: steps are constants */
        tile(FLOAT32, ROWS, depth, x, 1, ROWS, panel, out, out_step, is_first, next, piece, lines);
    else
        any_tile(FLOAT32, rows, depth, x, row_step, k_step, panel, out, out_step, is_first, next, piece, lines);
}

static inline void tile_bfloat16(int rows, long depth, const float *x, long row_step, long k_step, const void *panel,
                          float *out, long out_step, int is_first, const char *next, long piece, long lines) {
    any_tile(BFLOAT16, rows, depth, x, row_step, k_step, panel, out, out_step, is_first, next, piece, lines);
}

static inline void tile_int8(int rows, long depth, const float *x, long row_step, long k_step, const void *panel,
                      float *out, long out_step, int is_first, const char *next, long piece, long lines) {
    any_tile(INT8, rows, depth, x, row_step, k_step, panel, out, out_step, is_first, next, piece, lines);
}

#endif
