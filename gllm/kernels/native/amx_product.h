/* Products on the matrix unit: rows by a panel of weights, both as tiles of parts, with sums kept in the unit.
 * What the parts are stands in amx.h. Knows nothing of how work is cut.
 */
#ifndef GLLM_AMX_PRODUCT_H
#define GLLM_AMX_PRODUCT_H

#include "coded.h"
#include "linear.h"

#define TALL (2 * TILE_ROWS)

/* What is done while the unit multiplies, which leaves the rest of the processor idle. */
typedef struct {
    const Weight *weight; /* of which `groups` from `block` on become tiles, `group` of them so far */
    long block, group, groups, groups_at_once;
    char *to;
    int is_last; /* rows that need the weights multiplied now */
    const Outputs *outputs; /* where finished sums go: of `rows` rows from `start` on, `row` of them so far */
    long panel, start, row, rows, rows_at_once;
    float *sums;
    const float *awaited; /* where the sums in the making will go to, for which memory is asked */
} Beside;

/* Whether weights are decoded a little after each product, to another place than those multiplied; if not, a block is as
 * soon as the one in its place is no longer needed. A step of three or six products has room to hide that; of one, it has
 * not, and what the second cache is spared counts for more. */
INLINE int is_spread(int x_parts) { return x_parts == 3; }

INLINE void decode_beside(int type, Beside *beside, long count) {
    const long end = beside->group + count < beside->groups ? beside->group + count : beside->groups;
    while (beside->group < end) {
        const long step = beside->group / GROUPS, first = beside->group % GROUPS;
        const long last = first + end - beside->group < GROUPS ? first + end - beside->group : GROUPS;
        decode(type, beside->weight, beside->block + step, first, last, beside->to + step * tiles_bytes(type));
        beside->group += last - first;
    }
}

INLINE void finish_beside(Beside *beside, long count) {
    const long row = beside->row, end = row + count < beside->rows ? row + count : beside->rows;
    if (row == end) return;
    for (long i = row; i < end; i++) {
        const float *to = beside->awaited + i * beside->outputs->y_step;
        __builtin_prefetch(to, 1);
        __builtin_prefetch(to + LANES, 1);
    }
    finish(beside->outputs, beside->panel, beside->start + row, beside->start + end, beside->sums + row * PANEL);
    beside->row = end;
}

/* Tiles 0 to 3: sums of two tiles of rows by the two halves of a panel; 4, 5: x; 6, 7: weights. The first cache is left
 * to weights and sums: x comes from the second. */
INLINE void load_x(int tall, const char *first, const char *second) {
    _tile_stream_loadd(4, first, LINE);
    if (tall) _tile_stream_loadd(5, second, LINE);
}

INLINE void load_weights(int type, const char *w, int part) {
    _tile_loadd(6, w + part * TILE_BYTES, LINE);
    _tile_loadd(7, w + (parts_of(type) + part) * TILE_BYTES, LINE);
}

INLINE void multiply(int type, int x_parts, int tall, Beside *beside) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (tall) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    if (is_spread(x_parts)) decode_beside(type, beside, beside->groups_at_once);
    finish_beside(beside, beside->rows_at_once);
}

/* How often `multiply` is called in a step. */
INLINE int calls_of_step(int type, int x_parts) { return x_parts == 1 ? 1 : type == FLOAT32 ? 6 : 3; }

/* One or two tiles of rows, times `steps` steps of weights. x: [steps][2][x_parts][16][32]; sums: [rows][PANEL], of the
 * steps before unless these are the first; what is neither loaded nor stored stays in the unit. */
INLINE void multiply_steps(int type, int x_parts, int tall, const char *x, const char *weights, long steps, float *sums,
                           int is_first, int is_loaded, int is_stored, Beside *beside) {
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
        const char *first = x + step * 2 * x_parts * TILE_BYTES, *second = first + x_parts * TILE_BYTES;
        const char *w = weights + step * tiles_bytes(type);
        load_weights(type, w, 0);
        if (x_parts == 3) { /* the smallest products first; from one to the next, one side changes */
            load_x(tall, first + 2 * TILE_BYTES, second + 2 * TILE_BYTES);
            multiply(type, x_parts, tall, beside);
            load_x(tall, first + TILE_BYTES, second + TILE_BYTES);
            multiply(type, x_parts, tall, beside);
            if (type == FLOAT32) {
                load_weights(type, w, 1);
                multiply(type, x_parts, tall, beside);
            }
        }
        load_x(tall, first, second);
        multiply(type, x_parts, tall, beside);
        if (type == FLOAT32) {
            load_weights(type, w, 2);
            multiply(type, x_parts, tall, beside);
            load_weights(type, w, 0);
            multiply(type, x_parts, tall, beside);
        }
        if (!is_spread(x_parts) && beside->is_last) decode_beside(type, beside, GROUPS);
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
    const int x_rows = rows < TILE_ROWS ? rows : TILE_ROWS;
    configure_tiles((const int[8]){x_rows, x_rows, x_rows, x_rows, x_rows, x_rows, TILE_ROWS, TILE_ROWS},
                    (const int[8]){LINE, LINE, LINE, LINE, LINE, LINE, LINE, LINE});
}

#endif
