/* Up to a tile of rows times a weight: what counts is to read the weight at memory's speed.
 *
 * A block of weights is decoded into tiles while the one before is multiplied. The sums of a panel stay in the unit
 * until all inputs are summed. Knows nothing of layers.
 */
#include "linear_few.h"

#ifdef HAS_TILES
#include <omp.h>

#include "amx_product.h"

/* Tiles 0, 1: sums of the halves of a panel; 2, 3, 4: parts of x; 6, 7: of weights. The products are in the order of
 * linear_amx.c. */
#define MULTIPLY_HALF(sums) \
    do { \
        _tile_loadd(6, half, LINE); \
        if (x_parts == 3) { \
            _tile_dpbf16ps(sums, 4, 6); \
            _tile_dpbf16ps(sums, 3, 6); \
            if (type == FLOAT32) { \
                _tile_loadd(7, half + TILE_BYTES, LINE); \
                _tile_dpbf16ps(sums, 3, 7); \
                _tile_dpbf16ps(sums, 2, 7); \
                _tile_loadd(7, half + 2 * TILE_BYTES, LINE); \
                _tile_dpbf16ps(sums, 2, 7); \
            } \
        } \
        _tile_dpbf16ps(sums, 2, 6); \
    } while (0)

INLINE void multiply_half(int type, int x_parts, int second, const char *half) {
    if (second)
        MULTIPLY_HALF(1);
    else
        MULTIPLY_HALF(0);
}

/* sums: [rows][PANEL]; x: [steps][x_parts][rows][STEP]. */
INLINE void one_panel(int type, int x_parts, const Weight *weight, long panel, const char *x, long rows, long steps, float *sums) {
    char tiles[2][2 * 3 * TILE_BYTES] __attribute__((aligned(64)));
    const long x_tile = rows * LINE, first = panel * steps;
    _tile_zero(0);
    _tile_zero(1);
    decode(type, weight, first, 0, GROUPS, tiles[0]);
    for (long step = 0; step < steps; step++, x += x_parts * x_tile) {
        const char *now = tiles[step % 2];
        char *next = tiles[(step + 1) % 2];
        _tile_loadd(2, x, LINE);
        if (x_parts == 3) {
            _tile_loadd(3, x + x_tile, LINE);
            _tile_loadd(4, x + 2 * x_tile, LINE);
        }
        /* In turn: a block is more than the processor looks ahead. */
        if (step + 1 < steps) decode(type, weight, first + step + 1, 0, GROUPS / 2, next);
        multiply_half(type, x_parts, 0, now);
        if (step + 1 < steps) decode(type, weight, first + step + 1, GROUPS / 2, GROUPS, next);
        multiply_half(type, x_parts, 1, now + tiles_bytes(type) / 2);
    }
    _tile_stored(0, sums, 4 * PANEL);
    _tile_stored(1, sums + 16, 4 * PANEL);
}

static void any_panel(int type, int x_parts, const Weight *weight, long panel, const char *x, long rows, long steps, float *sums) {
    switch (type) {
    case FLOAT32: one_panel(FLOAT32, 3, weight, panel, x, rows, steps, sums); break;
    case BFLOAT16:
        x_parts == 1 ? one_panel(BFLOAT16, 1, weight, panel, x, rows, steps, sums)
                     : one_panel(BFLOAT16, 3, weight, panel, x, rows, steps, sums);
        break;
    case INT8:
        x_parts == 1 ? one_panel(INT8, 1, weight, panel, x, rows, steps, sums)
                     : one_panel(INT8, 3, weight, panel, x, rows, steps, sums);
        break;
    }
}

int multiply_few(const float *x, const Weight *weight, int type, int x_parts, long rows, long in, const Outputs *outputs) {
    static Workspace space;
    const long steps = (in + STEP - 1) / STEP, panels = (outputs->out + PANEL - 1) / PANEL, tile = rows * LINE;
    char *split_x = reserve(&space, steps * x_parts * tile);
    if (!split_x) return 1;
    for (long row = 0; row < rows; row++)
        for (long step = 0; step < steps; step++)
            split_step(x + row * in + step * STEP, in - step * STEP, x_parts, tile, split_x + step * x_parts * tile + row * LINE);
#pragma omp parallel if (!is_small(rows, in, outputs->out, type))
    {
        float sums[TILE_ROWS * PANEL] __attribute__((aligned(64)));
        configure(rows);
#pragma omp for schedule(guided)
        for (long panel = 0; panel < panels; panel++) {
            any_panel(type, x_parts, weight, panel, split_x, rows, steps, sums);
            finish(outputs, panel, 0, rows, sums);
        }
        _tile_release();
    }
    return 0;
}

#endif
