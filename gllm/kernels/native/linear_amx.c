/* The products of linear.c on the matrix unit: float32 as three parts, of whose nine products the six largest are
 * summed in float32.
 *
 * The other three are below the last bit, so the result is a float32 product (its error is that of float32
 * multiply-adds, since the unit sums 32 inputs before it adds them to the rest), at several times the speed of
 * float32's own instructions. A weight that was stored in 16 or 8 bits has but one part, and takes three products.
 *
 * An element is the sum over STEPs of inputs in order, whatever the number of rows: to the bit, a row's result does
 * not depend on who shares its batch. Knows nothing of layers.
 */
#include "linear_few.h"

#ifdef HAS_TILES
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "amx_product.h"

#define BLOCK_ROWS 128    /* of x, for which a group of panels is finished */
#define FEW_STEPS 32      /* of x, where more of BLOCK_ROWS would not stay in the second cache */
#define KEPT (800L << 10) /* bytes of x that do */
#define GROUP 16          /* panels of a group */

/* Rows [start, end) by panels [first, last), for steps [from, to). */
typedef struct {
    const Weight *weight;
    long steps; /* of the whole weight */
    const char *x; /* blocks of [row_tiles][BLOCK_STEPS][x_parts][16][32] */
    long row_tiles, start, end, first, last, from, to;
    float *sums;            /* [last - first][BLOCK_ROWS][PANEL]; with `outputs` those of one panel */
    const Outputs *outputs; /* where sums go when they are complete; none if there are steps before or behind */
} Part;

INLINE void multiply_part(int type, int x_parts, const Part *part) {
    char decoded[2][BLOCK_STEPS * 6 * TILE_BYTES] __attribute__((aligned(64)));
    const long x_tile = BLOCK_STEPS * x_parts * TILE_BYTES, blocks = (part->to - part->from + BLOCK_STEPS - 1) / BLOCK_STEPS;
    const long tiles = (part->end - part->start + TILE_ROWS - 1) / TILE_ROWS;
    const long products = (x_parts == 1 ? 1 : type == FLOAT32 ? 6 : 3) * ((tiles + 1) / 2) * BLOCK_STEPS;
    const int is_kept = tiles <= 2; /* in the unit, until a panel's last block */
    Decoding next = {.weight = part->weight, .share = (BLOCK_STEPS * GROUPS + products - 1) / products};
    for (long n = -1; n < (part->last - part->first) * blocks; n++) {
        const char *weights = next.to; /* of block n */
        const long panel = part->first + (n + 1) / blocks, step = part->from + (n + 1) % blocks * BLOCK_STEPS;
        const long steps = part->to - step < BLOCK_STEPS ? part->to - step : BLOCK_STEPS;
        next.group = 0;
        next.groups = panel < part->last ? steps * GROUPS : 0;
        next.block = panel * part->steps + step;
        next.to = decoded[(n + 1) % 2];
        if (n >= 0) {
            const long block = n % blocks, now = part->from + block * BLOCK_STEPS;
            const long steps_now = part->to - now < BLOCK_STEPS ? part->to - now : BLOCK_STEPS;
            const char *x = part->x + (now / BLOCK_STEPS * part->row_tiles + part->start / TILE_ROWS) * x_tile;
            float *sums = part->sums + (part->outputs ? 0 : n / blocks * BLOCK_ROWS * PANEL);
            const int is_loaded = !is_kept || block == 0, is_stored = !is_kept || block + 1 == blocks;
            for (long t = 0; t < tiles; t += 2)
                if (t + 1 < tiles)
                    multiply_steps(type, x_parts, 1, x + t * x_tile, weights, steps_now, sums + t * TILE_ROWS * PANEL,
                                   now == 0, is_loaded, is_stored, &next);
                else
                    multiply_steps(type, x_parts, 0, x + t * x_tile, weights, steps_now, sums + t * TILE_ROWS * PANEL,
                                   now == 0, is_loaded, is_stored, &next);
            if (part->outputs && block + 1 == blocks)
                finish(part->outputs, part->first + n / blocks, part->start, part->end, sums);
        }
        go_on(type, &next, next.groups); /* what is left */
    }
}

static void multiply_any_part(int type, int x_parts, const Part *part) {
    switch (type) {
    case FLOAT32: multiply_part(FLOAT32, 3, part); break;
    case BFLOAT16: x_parts == 1 ? multiply_part(BFLOAT16, 1, part) : multiply_part(BFLOAT16, 3, part); break;
    case INT8: x_parts == 1 ? multiply_part(INT8, 1, part) : multiply_part(INT8, 3, part); break;
    }
}

/* A row of x, [in], in three parts or rounded to one; `first` is its place in the first block, zeros are put behind its end. */
static void split_row(const float *x, long in, int parts, long block_bytes, char *first) {
    for (long step = 0; step * STEP < in; step++) {
        char *to = first + step / BLOCK_STEPS * block_bytes + step % BLOCK_STEPS * parts * TILE_BYTES;
        split_step(x + step * STEP, in - step * STEP, parts, TILE_BYTES, to);
    }
}

/* Whether the processor and the system let this process use the unit; asks once. */
int gllm_has_matrix_unit(void) {
    static int answer = -1;
    const int permit = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    if (answer < 0) answer = syscall(SYS_arch_prctl, permit, tile_data) == 0;
    return answer;
}

static int multiply_rows(const float *x, const Weight *weight, int type, const float *bias, const float *scale, float *y,
                         long rows, long in, long out, int is_gated, int parts) {
    if (!rows) return 0;
    static Workspace x_space, sums_space;
    const int threads = omp_get_max_threads();
    const long steps = (in + STEP - 1) / STEP, blocks = (steps + BLOCK_STEPS - 1) / BLOCK_STEPS;
    const long row_tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, tile_bytes = BLOCK_STEPS * parts * TILE_BYTES;
    const long panels = (out + PANEL - 1) / PANEL, row_blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const Outputs outputs = {bias, scale, y, out, is_gated ? out / 2 : out, is_gated};
    if (rows <= TILE_ROWS) return multiply_few(x, weight, type, parts, rows, in, &outputs);
    long group = GROUP;
    while (group > 1 && row_blocks * panels < 4 * group * threads) group /= 2;
    const long groups = (panels + group - 1) / group, sums_of_panel = BLOCK_ROWS * PANEL;
    char *split_x = reserve(&x_space, blocks * row_tiles * tile_bytes);
    float *sums = reserve(&sums_space, sizeof(float) * threads * group * sums_of_panel);
    if (!split_x || !sums) return 1;
    const long tiles = rows < BLOCK_ROWS ? row_tiles : BLOCK_ROWS / TILE_ROWS;
    const int is_whole = tiles * blocks * tile_bytes < KEPT;
    const long depth = is_whole ? steps : FEW_STEPS;
#pragma omp parallel if (!is_small(rows, in, out, type))
    {
        configure(rows);
        /* What lies in a tile's rows beyond the last is of no row's concern. */
#pragma omp for schedule(static)
        for (long row = 0; row < rows; row++)
            split_row(x + row * in, in, parts, row_tiles * tile_bytes, split_x + row / TILE_ROWS * tile_bytes + row % TILE_ROWS * 64);
#pragma omp for schedule(dynamic, 1)
        for (long item = 0; item < row_blocks * groups; item++) {
            const long start = item / groups * BLOCK_ROWS, first = item % groups * group;
            Part part = {weight, steps, split_x, row_tiles, start, .first = first, .outputs = is_whole ? &outputs : NULL};
            part.end = start + BLOCK_ROWS < rows ? start + BLOCK_ROWS : rows;
            part.last = first + group < panels ? first + group : panels;
            part.sums = sums + omp_get_thread_num() * group * sums_of_panel;
            for (; part.from < steps; part.from = part.to) {
                part.to = part.from + depth < steps ? part.from + depth : steps;
                multiply_any_part(type, parts, &part);
            }
            for (long panel = first; !is_whole && panel < part.last; panel++)
                finish(&outputs, panel, start, part.end, part.sums + (panel - first) * sums_of_panel);
        }
        _tile_release();
    }
    return 0;
}

#else

int gllm_has_matrix_unit(void) { return 0; }

static int multiply_rows(const float *x, const void *weight, int type, const float *bias, const float *scale, float *y,
                         long rows, long in, long out, int is_gated, int parts) {
    return 1;
}

#endif

/* As gllm_linear; weight: panels of [in / 2][PANEL][2], where `in` is rounded up to STEPs. */
int gllm_linear_amx(const float *x, const void *weight, int type, const float *bias, const float *scale, float *y,
                    long rows, long in, long out, int is_gated) {
    return multiply_rows(x, weight, type, bias, scale, y, rows, in, out, is_gated, 3);
}

/* x is rounded to bfloat16, and has one part instead of three; the weight is not float32. */
int gllm_linear_amx_rounded(const float *x, const void *weight, int type, const float *bias, const float *scale, float *y,
                            long rows, long in, long out, int is_gated) {
    return multiply_rows(x, weight, type, bias, scale, y, rows, in, out, is_gated, 1);
}
