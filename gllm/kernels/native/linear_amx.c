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
#include "operators.h"

#ifdef HAS_TILES
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "amx_product.h"

#define KEPT (800L << 10)     /* bytes of x that stay in the second cache */
#define DECODED (128 << 10)   /* bytes of decoded weights that do, too */
#define NEAR_BYTES (24 << 10) /* bytes of them that stay in the first: of float32, and where few rows share them */
#define FEW_PAIRS 3           /* of tiles of rows are few, */
#define MOST_PAIRS 8          /* and so many a block of rows has at most; */
#define NEAR_PAIRS 4          /* of float32 these, whose sums stay there, too */
#define GROUP 8               /* panels of a group */

/* A product, and how it is cut: blocks of rows by groups of panels are the items that threads take. */
typedef struct {
    const Weight *weight;
    const char *x; /* [rows / TALL][steps][2][x_parts][16][32] */
    Outputs outputs;
    long rows, block_rows, steps, panels, group, groups, items;
    long span;  /* steps of x that stay in the second cache: of a group's panels these are multiplied before the next */
    long depth; /* steps whose weights are decoded at once, of which a span is a multiple */
    long slots; /* for the sums of pairs of tiles that a thread has at once: one more than are summed */
    long taken; /* items */
} Job;

/* Where a thread is: `depth` steps from `step` on of a panel, by the rows of an item. */
typedef struct {
    long item, panel, step;
} Place;

INLINE long least(long a, long b) { return a < b ? a : b; }

static int take_item(Job *job, Place *place) {
    place->item = __atomic_fetch_add(&job->taken, 1, __ATOMIC_RELAXED);
    place->panel = place->item % job->groups * job->group;
    place->step = 0;
    return place->item < job->items;
}

/* On to the next place, if there is one. */
static int go_on(Job *job, Place *place) {
    const long span = place->step / job->span * job->span;
    place->step += job->depth;
    if (place->step < least(span + job->span, job->steps)) return 1;
    place->panel++;
    if (place->panel < job->panels && place->panel % job->group) {
        place->step = span;
        return 1;
    }
    place->panel = (place->panel - 1) / job->group * job->group;
    return place->step < job->steps || take_item(job, place);
}

/* The weights of a place are next to be decoded. */
static void begin_decoding(const Job *job, const Place *place, char *to, Beside *beside) {
    beside->block = place->panel * job->steps + place->step;
    beside->group = 0;
    beside->groups = least(job->depth, job->steps - place->step) * GROUPS;
    beside->to = to;
}

/* The rows of a place's item by its weights. sums: in slots, of which `turn` is the first of those in use. */
INLINE void multiply_place(int type, int x_parts, const Job *job, const Place *place, const char *weights, float *sums,
                           long turn, Beside *beside) {
    const long start = place->item / job->groups * job->block_rows, end = least(start + job->block_rows, job->rows);
    const long steps = least(job->depth, job->steps - place->step), calls = steps * calls_of_step(type, x_parts);
    const long pairs = (end - start + TALL - 1) / TALL;
    const long first = job->span < job->steps ? turn + place->panel % job->group * (job->block_rows / TALL) : turn;
    const int is_first = place->step == 0, is_last = place->step + steps == job->steps;
    const int is_kept = pairs == 1; /* sums, in the unit, until a span ends */
    const int is_loaded = !is_kept || place->step % job->span == 0;
    const int is_stored = !is_kept || is_last || (place->step + steps) % job->span == 0;
    beside->groups_at_once = (beside->groups + pairs * calls - 1) / (pairs * calls);
    for (long pair = 0; pair < pairs; pair++) {
        const long row = start + pair * TALL, rows = least(TALL, end - row);
        const char *x = job->x + (row / TALL * job->steps + place->step) * 2 * x_parts * TILE_BYTES;
        float *own = sums + (first + pair) % job->slots * TALL * PANEL;
        beside->is_last = pair + 1 == pairs;
        beside->awaited = address_of(&job->outputs, place->panel, row);
        beside->rows_at_once = (beside->rows - beside->row + calls - 1) / calls;
        if (rows > TILE_ROWS)
            multiply_steps(type, x_parts, 1, x, weights, steps, own, is_first, is_loaded, is_stored, beside);
        else
            multiply_steps(type, x_parts, 0, x, weights, steps, own, is_first, is_loaded, is_stored, beside);
        if (is_last) {
            finish_beside(beside, beside->rows);
            beside->panel = place->panel;
            beside->start = row;
            beside->row = 0;
            beside->rows = rows;
            beside->sums = own;
        }
    }
}

INLINE void work(int type, int x_parts, Job *job, float *sums) {
    char decoded[is_spread(x_parts) ? 2 : 1][type == FLOAT32 ? NEAR_BYTES / 2 : DECODED] __attribute__((aligned(64)));
    Beside beside = {.weight = job->weight, .outputs = &job->outputs};
    long turn = 0, half = 0;
    Place next;
    int more = take_item(job, &next);
    if (!more) return;
    begin_decoding(job, &next, decoded[half], &beside);
    decode_beside(type, &beside, beside.groups);
    while (more) {
        const Place now = next;
        const char *weights = decoded[half];
        more = go_on(job, &next);
        if (is_spread(x_parts)) half = !half;
        if (more)
            begin_decoding(job, &next, decoded[half], &beside);
        else
            beside.groups = 0;
        multiply_place(type, x_parts, job, &now, weights, sums, turn, &beside);
        decode_beside(type, &beside, beside.groups);
        if (next.item != now.item || (job->span == job->steps && next.panel != now.panel))
            turn = (turn + job->slots - 1) % job->slots;
    }
    finish_beside(&beside, beside.rows);
}

static void any_work(int type, int x_parts, Job *job, float *sums) {
    switch (type) {
    case FLOAT32: work(FLOAT32, 3, job, sums); break;
    case BFLOAT16: x_parts == 1 ? work(BFLOAT16, 1, job, sums) : work(BFLOAT16, 3, job, sums); break;
    case INT8: x_parts == 1 ? work(INT8, 1, job, sums) : work(INT8, 3, job, sums); break;
    }
}

/* Whether the processor and the system let this process use the unit; asks once. */
int gllm_has_matrix_unit(void) {
    static int answer = -1;
    const int permit = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    if (answer < 0) answer = syscall(SYS_arch_prctl, permit, tile_data) == 0;
    return answer;
}

/* How rows and weights are cut. */
static void cut(Job *job, int type, int x_parts, int threads) {
    const long pairs = (job->rows + TALL - 1) / TALL;
    const long bytes = 2 * x_parts * TILE_BYTES; /* of a step of a pair */
    long most = least(KEPT / (job->steps * bytes), type == FLOAT32 ? NEAR_PAIRS : MOST_PAIRS);
    if (most < 2) most = NEAR_PAIRS; /* of some steps each time */
    const long blocks = (pairs + most - 1) / most, pairs_of_block = (pairs + blocks - 1) / blocks;
    const int are_few = pairs_of_block <= FEW_PAIRS && !is_spread(x_parts);
    const long room = type == FLOAT32 ? NEAR_BYTES / 2 : are_few ? NEAR_BYTES : DECODED;
    job->block_rows = pairs_of_block * TALL;
    job->span = least(job->steps, KEPT / (pairs_of_block * bytes));
    job->depth = least(job->span, room / tiles_bytes(type));
    if (job->span < job->steps) job->span -= job->span % job->depth;
    job->group = GROUP;
    while (job->group > 1 && blocks * job->panels < 8 * job->group * threads) job->group /= 2;
    job->groups = (job->panels + job->group - 1) / job->group;
    job->slots = (job->span < job->steps ? job->group : 1) * pairs_of_block + 1;
    job->items = blocks * job->groups;
}

static int multiply_rows(const float *x, const Weight *weight, int type, const float *bias, const float *scale, float *y,
                         long rows, long in, long out, int is_gated, int parts) {
    if (!rows) return 0;
    static Workspace x_space, space;
    Job job = {weight, NULL, {bias, scale, y, out, is_gated ? out / 2 : out, is_gated}, rows};
    if (rows <= TILE_ROWS) return multiply_few(x, weight, type, parts, rows, in, &job.outputs);
    job.steps = (in + STEP - 1) / STEP;
    job.panels = (out + PANEL - 1) / PANEL;
    const long step_bytes = 2 * parts * TILE_BYTES, pair_bytes = job.steps * step_bytes;
    const int threads = omp_get_max_threads();
    cut(&job, type, parts, threads);
    const long sums_of_thread = job.slots * TALL * PANEL;
    char *packed = reserve(&x_space, (rows + TALL - 1) / TALL * pair_bytes);
    float *sums = reserve(&space, threads * sums_of_thread * sizeof(float));
    if (!packed || !sums) return 1;
    job.x = packed;
#pragma omp parallel if (!is_small(rows, in, out, type))
    {
        configure(rows);
        /* What lies in a tile's rows beyond the last is of no row's concern. */
#pragma omp for schedule(static)
        for (long row = 0; row < rows; row++) {
            char *to = packed + row / TALL * pair_bytes + row / TILE_ROWS % 2 * parts * TILE_BYTES + row % TILE_ROWS * LINE;
            for (long step = 0; step < job.steps; step++)
                split_step(x + row * in + step * STEP, in - step * STEP, parts, TILE_BYTES, to + step * step_bytes);
        }
        any_work(type, parts, &job, sums + omp_get_thread_num() * sums_of_thread);
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
