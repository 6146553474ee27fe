/* y = x @ weight.T with packed weights, for any number of rows, in float32 arithmetic.
 *
 * A weight [out, in] is packed into panels of PANEL outputs, each [in][PANEL], so that it is read from
 * memory once, in order. An element of y is the sum over blocks of DEPTH inputs, each one chain of
 * multiply-adds, whatever the number of rows: to the bit, a row's result does not depend on who shares its
 * batch. Weights of 16 or 8 bits are widened when they are used, which changes no sum.
 *
 * Source of the blocking: Goto and van de Geijn 2008. Knows nothing of layers.
 */
#include <omp.h>

#include "linear.h"
#include "operators.h"

#define DEPTH 256 /* of a block of weights: PANEL * DEPTH floats stay in the first cache */
#define AHEAD 768 /* bytes between what is computed with and what memory is asked for */
#define BLOCK_ROWS (8 * ROWS) /* of x, that stay in the second cache */

int gllm_panel(void) { return PANEL; }

typedef struct {
    const float *x; /* packed: blocks of ROWS rows, each [in][ROWS]; or as given, if it is one block */
    long row_step, k_step;
    const void *weight;
    int type;
    long in;
    Outputs outputs;
} Work;

/* y of rows [start, end) for one panel. */
static void one_panel(const Work *work, long panel, long start, long end) {
    float widened[DEPTH * PANEL] __attribute__((aligned(64)));
    float scratch[BLOCK_ROWS * PANEL] __attribute__((aligned(64)));
    const long size = bytes_of(work->type), in = work->in;
    const char *weights = (const char *)work->weight + panel * in * PANEL * size;
    const long first = panel * PANEL;
    const Outputs *outputs = &work->outputs;
    const int is_whole = !outputs->is_gated && first + PANEL <= outputs->out;
    const int is_direct = is_whole && !outputs->scale && !outputs->bias;
    float *base = is_direct ? outputs->y + start * outputs->y_step + first : scratch;
    const long base_step = is_direct ? outputs->y_step : PANEL;
    const long tiles = (end - start + ROWS - 1) / ROWS;
    for (long k = 0; k < in; k += DEPTH) {
        const long depth = in - k < DEPTH ? in - k : DEPTH;
        const char *block = weights + k * PANEL * size;
        const char *next = block + depth * PANEL * size; /* the next block, or the next panel's first */
        long piece = 64, lines = (DEPTH * PANEL * size / 64 + tiles - 1) / tiles;
        if (tiles == 1) { /* nothing but reading the weight: not far ahead, and all of it */
            piece = PANEL * size;
            lines = depth;
            next = block + AHEAD;
        }
        const void *used = block;
        int type = work->type;
        if (type != FLOAT32 && tiles > 2) {
            for (long i = 0; i < depth; i++) {
                vec w0, w1;
                if (type == BFLOAT16)
                    widen(BFLOAT16, block, i, &w0, &w1);
                else
                    widen(INT8, block, i, &w0, &w1);
                store(widened + i * PANEL, w0);
                store(widened + i * PANEL + LANES, w1);
            }
            used = widened;
            type = FLOAT32;
        }
        for (long t = 0; t < tiles; t++) {
            const long row = start + t * ROWS;
            const int rows = end - row < ROWS ? (int)(end - row) : ROWS;
            const float *x = work->row_step == 1 ? work->x + (row / ROWS) * in * ROWS + k * ROWS
                                                 : work->x + row * work->row_step + k * work->k_step;
            float *to = base + t * ROWS * base_step;
            const char *ask = next + piece * lines * t;
            if (type == FLOAT32)
                tile_float32(rows, depth, x, work->row_step, work->k_step, used, to, base_step, k == 0, ask, piece, lines);
            else if (type == BFLOAT16)
                tile_bfloat16(rows, depth, x, work->row_step, work->k_step, used, to, base_step, k == 0, ask, piece, lines);
            else
                tile_int8(rows, depth, x, work->row_step, work->k_step, used, to, base_step, k == 0, ask, piece, lines);
        }
    }
    if (!is_direct) finish(outputs, panel, start, end, scratch);
}

/* Rows of x beyond the last are zeros. */
static void pack_rows(const float *x, long rows, long in, long block, float *packed) {
    float *to = packed + block * in * ROWS;
    const long first = block * ROWS, count = rows - first < ROWS ? rows - first : ROWS;
    for (long k = 0; k < in; k += LANES) {
        const long end = in - k < LANES ? in - k : LANES;
        for (long i = 0; i < count; i++)
            for (long j = 0; j < end; j++) to[(k + j) * ROWS + i] = x[(first + i) * in + k + j];
    }
    if (count < ROWS)
        for (long k = 0; k < in; k++)
            for (long i = count; i < ROWS; i++) to[k * ROWS + i] = 0;
}

/* x: [rows, in]; weight: packed; y: [rows, out], or [rows, out / 2] if is_gated. bias, scale: [panels * PANEL]
 * or none. Returns 0, or 1 if memory is short. One caller at a time. */
int gllm_linear(const float *x, const void *weight, int type, const float *bias, const float *scale, float *y,
                long rows, long in, long out, int is_gated) {
    static Workspace space;
    Work work = {x, in, 1, weight, type, in, {bias, scale, y, out, is_gated ? out / 2 : out, is_gated}};
    const long panels = (out + PANEL - 1) / PANEL;
    const int is_packed = rows > ROWS;
    const long row_tiles = (rows + ROWS - 1) / ROWS;
    float *packed_rows = NULL;
    if (is_packed) {
        packed_rows = reserve(&space, sizeof(float) * row_tiles * ROWS * in);
        if (!packed_rows) return 1;
        work.x = packed_rows;
        work.row_step = 1;
        work.k_step = ROWS;
    }
    const long row_blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    long group = 4; /* panels that a thread takes at once */
    while (group > 1 && row_blocks * panels < 8 * group * omp_get_max_threads()) group /= 2;
    const long groups = (panels + group - 1) / group;
#pragma omp parallel if (!is_small(rows, in, out, type))
    {
        if (is_packed) {
#pragma omp for schedule(static)
            for (long block = 0; block < row_tiles; block++) pack_rows(x, rows, in, block, packed_rows);
        }
#pragma omp for schedule(dynamic, 1)
        for (long item = 0; item < row_blocks * groups; item++) {
            const long start = item / groups * BLOCK_ROWS, panel = item % groups * group;
            const long end = start + BLOCK_ROWS < rows ? start + BLOCK_ROWS : rows;
            for (long p = panel; p < panel + group && p < panels; p++) one_panel(&work, p, start, end);
        }
    }
    return 0;
}
