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
#include "linear_row.h"

#if defined(__AMX_BF16__) && defined(__linux__)
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "amx.h"

#define BLOCK_STEPS 2     /* of a panel's weights that are split while those before are multiplied */
#define BLOCK_ROWS 128    /* of x, for which a group of panels is finished */
#define FEW_STEPS 32      /* of x, where more of BLOCK_ROWS would not stay in the second cache */
#define KEPT (800L << 10) /* bytes of x that do */
#define GROUP 16          /* panels of a group */
#define NEAR 512          /* bytes between what is split and what is asked for into the first cache */
#define FAR 8192          /* and into the second */

INLINE int parts_of(int type) { return type == FLOAT32 ? 3 : 1; }

/* Bytes of the weights of one step of a panel, as tiles: [2 halves][parts][16][32]. */
INLINE long step_bytes(int type) { return 2 * parts_of(type) * TILE_BYTES; }

/* The weights of a panel for two inputs, [PANEL][2], become a row of its tiles; those in bfloat16 are tiles already. */
INLINE void split_weights(int type, const char *from, char *to) {
    for (long i = 0; i < pair_bytes(type); i += 64) {
        _mm_prefetch(from + NEAR + i, _MM_HINT_T0);
        _mm_prefetch(from + FAR + i, _MM_HINT_T1);
    }
    if (type == FLOAT32) {
        const float *w = (const float *)from;
        split(_mm512_loadu_ps(w), _mm512_loadu_ps(w + 16), to, TILE_BYTES);
        split(_mm512_loadu_ps(w + 32), _mm512_loadu_ps(w + 48), to + 3 * TILE_BYTES, TILE_BYTES);
    } else if (type == INT8)
        for (int half = 0; half < 2; half++) {
            const __m128i *w = (const __m128i *)(from + 32 * half);
            const __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(w)));
            const __m512 b = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(w + 1)));
            _mm512_store_si512(to + half * TILE_BYTES, high_of(a, b));
        }
}

/* What is done of the next block's weights while this one is multiplied: `share` pairs at a time. */
typedef struct {
    const char *from;
    char *to;
    long pair, pairs, share;
} Splitting;

INLINE void go_on(int type, Splitting *next, long share) {
    const long end = next->pair + share < next->pairs ? next->pair + share : next->pairs;
    for (; next->pair < end; next->pair++)
        split_weights(type, next->from + next->pair * pair_bytes(type),
                      next->to + next->pair / TILE_ROWS * step_bytes(type) + next->pair % TILE_ROWS * 64);
}

/* Tiles 0 to 3: sums of two tiles of rows by the two halves of a panel; 4, 5: x; 6, 7: weights. */
INLINE void load_x(int tall, const char *first, const char *second, int part) {
    _tile_loadd(4, first + part * TILE_BYTES, 64);
    if (tall) _tile_loadd(5, second + part * TILE_BYTES, 64);
}

INLINE void load_weights(int type, const char *w, int part) {
    if (type == BFLOAT16) {
        _tile_loadd(6, w, 128);
        _tile_loadd(7, w + 64, 128);
    } else {
        _tile_loadd(6, w + part * TILE_BYTES, 64);
        _tile_loadd(7, w + (parts_of(type) + part) * TILE_BYTES, 64);
    }
}

INLINE void multiply(int type, int tall, Splitting *next) {
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
                           int is_first, int is_loaded, int is_stored, Splitting *next) {
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
        const char *own = w + step * step_bytes(type);
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

/* Rows [start, end) by panels [first, last), for steps [from, to). */
typedef struct {
    const void *weight;
    long steps; /* of the whole weight */
    const char *x; /* blocks of [row_tiles][BLOCK_STEPS][x_parts][16][32] */
    long row_tiles, start, end, first, last, from, to;
    float *sums;            /* [last - first][BLOCK_ROWS][PANEL]; with `outputs` those of one panel */
    const Outputs *outputs; /* where sums go when they are complete; none if there are steps before or behind */
} Part;

INLINE void multiply_part(int type, int x_parts, const Part *part) {
    char split_tiles[2][BLOCK_STEPS * 6 * TILE_BYTES] __attribute__((aligned(64)));
    const long x_tile = BLOCK_STEPS * x_parts * TILE_BYTES, blocks = (part->to - part->from + BLOCK_STEPS - 1) / BLOCK_STEPS;
    const long tiles = (part->end - part->start + TILE_ROWS - 1) / TILE_ROWS;
    const long products = (x_parts == 1 ? 1 : type == FLOAT32 ? 6 : 3) * ((tiles + 1) / 2) * BLOCK_STEPS;
    const int is_kept = tiles <= 2; /* in the unit, until a panel's last block */
    Splitting next = {.share = (BLOCK_STEPS * TILE_ROWS + products - 1) / products};
    for (long n = -1; n < (part->last - part->first) * blocks; n++) {
        const char *weights = type == BFLOAT16 ? next.from : next.to; /* of block n */
        const long panel = part->first + (n + 1) / blocks, step = part->from + (n + 1) % blocks * BLOCK_STEPS;
        const long steps = part->to - step < BLOCK_STEPS ? part->to - step : BLOCK_STEPS;
        next.pair = 0;
        next.pairs = panel < part->last ? steps * TILE_ROWS : 0;
        next.from = (const char *)part->weight + (panel * part->steps + step) * TILE_ROWS * pair_bytes(type);
        next.to = split_tiles[(n + 1) % 2];
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
        go_on(type, &next, next.pairs); /* what is left */
    }
}

static void multiply_any_part(int type, const Part *part) {
    switch (type) {
    case FLOAT32: multiply_part(FLOAT32, 3, part); break;
    case BFLOAT16: multiply_part(BFLOAT16, 3, part); break;
    case INT8: multiply_part(INT8, 3, part); break;
    }
}

/* A row of x, [in], in parts; `first` is its place in the first block, zeros are put behind its end. */
static void split_row(const float *x, long in, int parts, long block_bytes, char *first) {
    for (long k = 0; k < in; k += STEP) {
        const long step = k / STEP;
        const __mmask16 some = first_lanes(in - k), others = first_lanes(in - k - 16);
        char *to = first + step / BLOCK_STEPS * block_bytes + step % BLOCK_STEPS * parts * TILE_BYTES;
        split(_mm512_maskz_loadu_ps(some, x + k), _mm512_maskz_loadu_ps(others, x + k + 16), to, TILE_BYTES);
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
    _tile_loadconfig(&tiles);
}

/* Whether the processor and the system let this process use the unit; asks once. */
int gllm_has_matrix_unit(void) {
    static int answer = -1;
    const int permit = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    if (answer < 0) answer = syscall(SYS_arch_prctl, permit, tile_data) == 0;
    return answer;
}

/* As gllm_linear; weight: panels of [in / 2][PANEL][2], where `in` is rounded up to STEPs. */
int gllm_linear_amx(const float *x, const void *weight, int type, const float *bias, const float *scale, float *y,
                    long rows, long in, long out, int is_gated) {
    if (!rows) return 0;
    static Workspace x_space, sums_space;
    const int parts = 3, threads = omp_get_max_threads();
    const long steps = (in + STEP - 1) / STEP, blocks = (steps + BLOCK_STEPS - 1) / BLOCK_STEPS;
    const long row_tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, tile_bytes = BLOCK_STEPS * parts * TILE_BYTES;
    const long panels = (out + PANEL - 1) / PANEL, row_blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const Outputs outputs = {bias, scale, y, out, is_gated ? out / 2 : out, is_gated};
    if (rows == 1) return multiply_row(x, weight, type, in, &outputs);
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
                multiply_any_part(type, &part);
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

int gllm_linear_amx(const float *x, const void *weight, int type, const float *bias, const float *scale, float *y,
                    long rows, long in, long out, int is_gated) {
    return 1;
}

#endif
