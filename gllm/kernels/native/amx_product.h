/* Products of float32 on the matrix unit: rows by a panel of weights, both as tiles of parts, with sums kept in the unit.
 * What the parts are stands in amx.h. Knows nothing of how work is cut.
 */
#ifndef GLLM_AMX_PRODUCT_H
#define GLLM_AMX_PRODUCT_H

#include "coded.h"

#define BLOCK_STEPS 2 /* of a panel's weights that are decoded while those before are multiplied */

/* What is done of the next block's weights while this one is multiplied: `share` groups at a time. */
typedef struct {
    const Weight *weight;
    long block;
    char *to;
    long group, groups, share;
} Decoding;

INLINE void go_on(int type, Decoding *next, long share) {
    const long end = next->group + share < next->groups ? next->group + share : next->groups;
    for (; next->group < end; next->group++) {
        const long step = next->group / GROUPS, group = next->group % GROUPS;
        decode(type, next->weight, next->block + step, group, group + 1, next->to + step * tiles_bytes(type));
    }
}

/* Tiles 0 to 3: sums of two tiles of rows by the two halves of a panel; 4, 5: x; 6, 7: weights. */
INLINE void load_x(int tall, const char *first, const char *second, int part) {
    _tile_loadd(4, first + part * TILE_BYTES, 64);
    if (tall) _tile_loadd(5, second + part * TILE_BYTES, 64);
}

INLINE void load_weights(int type, const char *w, int part) {
    _tile_loadd(6, w + part * TILE_BYTES, 64);
    _tile_loadd(7, w + (parts_of(type) + part) * TILE_BYTES, 64);
}

INLINE void multiply(int type, int tall, Decoding *next) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (tall) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    go_on(type, next, next->share);
}

/* One or two tiles of rows, times `steps` steps of weights. x: [tiles][BLOCK_STEPS][x_parts][16][32];
 * sums: [rows][PANEL]. */
INLINE void multiply_steps(int type, int x_parts, int tall, const char *x, const char *w, long steps, float *sums,
                           int is_first, int is_loaded, int is_stored, Decoding *next) {
    if (is_first) {
        _tile_zero(0);
        _tile_zero(1);
        if (tall) {
            _tile_zero(2);
            _tile_zero(3);
        }
    } else if (is_loaded) {
        _tile_loadd(0, sums, 4 * PANEL);
        _tile_loadd(1, sums + 16, 4 * PANEL);
        if (tall) {
            _tile_loadd(2, sums + 16 * PANEL, 4 * PANEL);
            _tile_loadd(3, sums + 16 * PANEL + 16, 4 * PANEL);
        }
    }
    for (long step = 0; step < steps; step++) {
        const char *first = x + step * x_parts * TILE_BYTES, *second = first + BLOCK_STEPS * x_parts * TILE_BYTES;
        const char *own = w + step * tiles_bytes(type);
        load_weights(type, own, 0);
        if (x_parts == 3) { /* the smallest products first; from one to the next, one side changes */
            load_x(tall, first, second, 2);
            multiply(type, tall, next);
            load_x(tall, first, second, 1);
            multiply(type, tall, next);
            if (type == FLOAT32) {
                load_weights(type, own, 1);
                multiply(type, tall, next);
            }
        }
        load_x(tall, first, second, 0);
        multiply(type, tall, next);
        if (type == FLOAT32) {
            load_weights(type, own, 2);
            multiply(type, tall, next);
            load_weights(type, own, 0);
            multiply(type, tall, next);
        }
    }
    if (is_stored) {
        _tile_stored(0, sums, 4 * PANEL);
        _tile_stored(1, sums + 16, 4 * PANEL);
        if (tall) {
            _tile_stored(2, sums + 16 * PANEL, 4 * PANEL);
            _tile_stored(3, sums + 16 * PANEL + 16, 4 * PANEL);
        }
    }
}

/* A tile of few rows is no taller than they are, so that no more is loaded. */
static void configure(long rows) {
    struct __attribute__((packed)) {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes_of_row[16];
        uint8_t rows[16];
    } tiles = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        tiles.bytes_of_row[i] = 64;
        tiles.rows[i] = i < 6 && rows < TILE_ROWS ? rows : TILE_ROWS;
    }
    /* gcc 12 believes that only 8 bytes are read, and may drop the others. */
    __asm__ volatile("" : : "r"(&tiles) : "memory");
    _tile_loadconfig(&tiles);
}

#endif
